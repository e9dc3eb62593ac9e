"""Average precision of boxes and masks as COCO defines it, from the official ground-truth file and the official results file.

    results: [{"image_id": 42, "category_id": 18, "bbox": [left, top, width, height], "score": 0.9}, ..] in pixels of the photo;
    of masks {.., "segmentation": {"size": [height, width], "counts": ".."}} and no bbox: where a result has both, pycocotools
    takes the box's area for the mask's, so figures by size differ

`accumulate` is the one function that runs an evaluator, faster-coco-eval, whose figures equal pycocotools' bit by bit
(tests/metrics/test_coco.py); all else reads its arrays. Areas, crowds, ids and categories are those of the file, never of
batches. Lin et al., "Microsoft COCO", ECCV 2014; LVIS's federated rule: Gupta et al., arXiv:1908.03195, §2.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vlp.system.errors import UserError

KINDS = ("bbox", "segm")
DETECTIONS = 100  # a photo and class; LVIS: 300 a photo
LVIS_DETECTIONS = 300
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # LVIS: by the training images that show the category
AREAS = ("all", "small", "medium", "large")  # divided at 32² and 96² pixels of the annotation's area
AP, AP50, AP75 = slice(None), 0, 5  # of the thresholds of overlap 0.50, 0.55, … 0.95


@dataclass(frozen=True, kw_only=True)
class Accumulated:
    """precision: at each threshold of overlap, recall 0, 0.01, … 1, category, area and number of detections; recall likewise.
    -1 = there is no object. categories: the official ids of the third axis. detections: a photo, those of the last axis."""

    precision: Float[np.ndarray, "t r k a m"]
    recall: Float[np.ndarray, "t k a m"]
    categories: tuple[int, ...]
    detections: tuple[int, ...]


def accumulate(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str,
    image_ids: Collection[int],
    category_ids: Collection[int] | None = None,
    lvis_style: bool = False,
) -> Accumulated:
    """ground_truth: the content of the official file.  kind: "bbox" or "segm".  image_ids: the photos that were looked at.
    category_ids: None = all.

    Raises UserError if faster-coco-eval is not installed."""
    evaluator = require_evaluator()
    truth, found = evaluator.COCO(), [dict(result) for result in results]  # the evaluator adds keys
    truth.dataset = dict(ground_truth)
    truth.createIndex()
    evaluation = evaluator.COCOeval_faster(
        truth, truth.loadRes(found), kind, lvis_style=lvis_style, rle_iou_max_workers=1
    )
    evaluation.params.imgIds = sorted(image_ids)
    if category_ids is not None:
        evaluation.params.catIds = sorted(category_ids)
    if lvis_style:
        evaluation.params.maxDets = [LVIS_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return Accumulated(
        precision=np.asarray(evaluation.eval["precision"]),
        recall=np.asarray(evaluation.eval["recall"]),
        categories=tuple(int(category) for category in evaluation.params.catIds),
        detections=tuple(evaluation.params.maxDets),
    )


def evaluate(
    ground_truth: Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    image_ids: Collection[int] | None = None,
    category_ids: Collection[int] | None = None,
    lvis_style: bool = False,
    subsets: Mapping[str, Collection[int]] | None = None,
) -> dict[str, float | None]:
    """COCO's twelve figures in [0, 1], `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar_1`, `ar_10`, `ar_100`,
    `ar_small`, `ar_medium`, `ar_large`; None where there is no such object.

    ground_truth: the official file, or its content.  kind: "bbox" or "segm".  image_ids: the photos that were looked at; None =
    all of the file; results of others are left out.  category_ids: likewise, of categories.  subsets: `ap_<name>` and
    `ap50_<name>` of some categories, by their official ids.  lvis_style: categories that an image's record lists neither as
    present nor in `neg_category_ids` are not counted, nor are false positives of those in `not_exhaustive_category_ids`; 300
    detections a photo, one `ar_300`, and `ap_rare`, `ap_common`, `ap_frequent` in addition.  Raises UserError where ids do not
    fit, or LVIS's keys are missing.
    """
    content = read_ground_truth(ground_truth)
    known = {image["id"] for image in content["images"]}
    chosen = known if image_ids is None else set(image_ids)
    if unknown := chosen - known:
        raise UserError(f"{len(unknown)} evaluated images are not in the ground truth, such as {min(unknown)}")
    if lvis_style and any("frequency" not in category for category in content["categories"]):
        raise UserError(
            "lvis_style=true, and the ground truth's categories have no frequency: give LVIS's file, or set it to false"
        )
    kept = [result for result in results if result["image_id"] in chosen]
    if lvis_style:
        kept = _best_of_each_image(kept, LVIS_DETECTIONS)
    arrays = accumulate(content, kept, kind=kind, image_ids=chosen, category_ids=category_ids, lvis_style=lvis_style)
    groups = dict(subsets or {})
    if lvis_style:
        groups |= {
            name: [category["id"] for category in content["categories"] if category.get("frequency") == letter]
            for letter, name in FREQUENCIES.items()
        }
    return summarize(arrays) | {
        f"{figure}_{name}": value
        for name, categories in groups.items()
        for figure, value in summarize(arrays, categories).items()
        if figure in ("ap", "ap50")
    }


def summarize(arrays: Accumulated, categories: Collection[int] | None = None) -> dict[str, float | None]:
    """The figures of some categories, by official ids; None = of all.  See `evaluate`."""
    chosen = [index for index, category in enumerate(arrays.categories) if categories is None or category in categories]
    precision, recall = arrays.precision[:, :, chosen], arrays.recall[:, chosen]
    figures = {
        "ap": _mean(precision[AP, :, :, 0, -1]),
        "ap50": _mean(precision[AP50, :, :, 0, -1]),
        "ap75": _mean(precision[AP75, :, :, 0, -1]),
    }
    figures |= {f"ap_{area}": _mean(precision[:, :, :, index, -1]) for index, area in enumerate(AREAS) if index}
    figures |= {f"ar_{count}": _mean(recall[:, :, 0, index]) for index, count in enumerate(arrays.detections)}
    return figures | {f"ar_{area}": _mean(recall[:, :, index, -1]) for index, area in enumerate(AREAS) if index}


def per_class(arrays: Accumulated) -> dict[int, float | None]:
    """`ap` of each category, by its official id."""
    return {category: summarize(arrays, (category,))["ap"] for category in arrays.categories}


def read_ground_truth(ground_truth: Path | Mapping[str, Any]) -> dict[str, Any]:
    """A copy that an evaluator may change, with annotations counted from 1: evaluators take the id 0 for "not matched"."""
    if isinstance(ground_truth, Path):
        content = json.loads(ground_truth.read_text(encoding="utf-8"))
    else:
        content = copy.deepcopy(dict(ground_truth))
    if lacking := [key for key in ("images", "annotations", "categories") if key not in content]:
        raise UserError(f"the ground truth has no {lacking[0]}: give a file in the layout of COCO's instances")
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    return content


def box_results(
    image_id: int, boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One photo's entries of the results file.  boxes: left, top, right, bottom in pixels of the photo.  category_ids: official."""
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category),
            "bbox": [float(left), float(top), float(right) - float(left), float(bottom) - float(top)],
            "score": float(score),
        }
        for (left, top, right, bottom), score, category in zip(boxes, scores, category_ids, strict=True)
    ]


def mask_results(
    image_id: int, codes: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, " n"], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Likewise of masks.  codes: of `encode_mask`."""
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category),
            "segmentation": dict(code),
            "score": float(score),
        }
        for code, score, category in zip(codes, scores, category_ids, strict=True)
    ]


def encode_mask(mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> dict[str, Any]:
    """COCO's compressed run-length code, with its counts as text.  mask: 0 or 1, at the photo's size."""
    code = importlib.import_module("pycocotools.mask").encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _best_of_each_image(results: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [r for rows in by_image.values() for r in sorted(rows, key=lambda row: -row["score"])[:count]]


def _mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def require_evaluator() -> Any:
    try:
        return importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise UserError("COCO's figures need faster-coco-eval: run pip install 'vlp[detect]'") from error
