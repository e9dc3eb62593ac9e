"""Detections of many images, kept as arrays on every process, and evaluated by the first one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vlp import distributed
from vlp.metrics.coco import KINDS, box_results, evaluate, mask_results
from vlp.system.errors import UserError

PREFIX = {"bbox": "", "segm": "mask_"}  # of the figures' names


@dataclass(frozen=True, kw_only=True)
class DetectedImage:
    """boxes: left, top, right, bottom in pixels of the photo.  category_ids: official.  codes: of masks, see `encode_mask`."""

    id: int
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    category_ids: Int[np.ndarray, " n"]
    codes: list[dict[str, Any]] | None = None


@dataclass
class CocoMeasurement:
    """What one process has seen of a split."""

    images: list[DetectedImage] = field(default_factory=list)

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """The official results of all processes, of boxes ("bbox") and, where there are masks, of these ("segm"). A collective
        call."""
        return results_of(distributed.gather_lists(self.images))

    def figures(
        self,
        ground_truth: Path | Mapping[str, Any],
        *,
        category_ids: Collection[int],
        lvis_style: bool = False,
        subsets: Mapping[str, Collection[int]] | None = None,
    ) -> tuple[dict[str, float | None], dict[str, list[dict[str, Any]]]]:
        """Percentages by name, those of masks with "mask_" before them, the same on every process; and the results. A collective
        call.  category_ids: those of which figures are; others of the file are left out.  Raises UserError on every process."""
        images: list[DetectedImage] = distributed.gather_lists(self.images)
        results = results_of(images)
        answer: tuple[dict[str, float | None], str | None] = ({}, None)
        if distributed.rank() == 0:
            answer = _evaluate(images, results, ground_truth, category_ids, lvis_style, dict(subsets or {}))
        figures, error = distributed.gather_objects(answer)[0]  # the others wait for it
        if error is not None:
            raise UserError(error)
        return figures, results


def results_of(images: Sequence[DetectedImage]) -> dict[str, list[dict[str, Any]]]:
    found = {
        "bbox": [r for one in images for r in box_results(one.id, one.boxes, one.scores, one.category_ids.tolist())]
    }
    if any(one.codes is not None for one in images):
        found["segm"] = [
            r for one in images for r in mask_results(one.id, one.codes or (), one.scores, one.category_ids.tolist())
        ]
    return found


def _evaluate(
    images: Sequence[DetectedImage],
    results: Mapping[str, Sequence[dict[str, Any]]],
    ground_truth: Path | Mapping[str, Any],
    category_ids: Collection[int],
    lvis_style: bool,
    subsets: dict[str, Collection[int]],
) -> tuple[dict[str, float | None], str | None]:
    figures: dict[str, float | None] = {}
    try:
        for kind in (kind for kind in KINDS if kind in results):
            found = evaluate(
                ground_truth, results[kind], kind=kind, image_ids={one.id for one in images}, lvis_style=lvis_style,
                category_ids=category_ids, subsets=subsets,
            )  # fmt: skip
            figures |= {PREFIX[kind] + name: None if value is None else 100 * value for name, value in found.items()}
    except (UserError, OSError) as error:
        return {}, str(error)
    return figures, None
