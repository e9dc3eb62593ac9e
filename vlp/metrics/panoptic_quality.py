"""Panoptic quality: the sum of the IoUs of matched segments over the number of segments that were to be matched, where half of
each unmatched one counts (Kirillov et al., arXiv:1801.00868, equation 1), for each class and as means over classes.

The rule of panopticapi/evaluation.py, which differs from torchmetrics' by crowds: a predicted and a true segment of one class
match if their IoU, without pixels of the predicted one that are void in the truth, is above 0.5. True crowds are matched by none
and missed by none. An unmatched prediction is no error if more than half of it is void or in the class's crowd (the last listed
one of the photo, where it has several).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.structures import Segment
from vlp.system.errors import UserError

VOID = 0  # id of pixels that belong to no segment
COUNTS = ("iou", "true_positives", "false_positives", "false_negatives")


def count_matches(
    truth: Int[np.ndarray, "h w"],
    true_segments: Sequence[Segment],
    predicted: Int[np.ndarray, "h w"],
    predicted_segments: Sequence[Segment],
    classes: int,
) -> Float[Tensor, "{classes} 4"]:
    """Of one photo: for each class the sum of IoUs, true positives, false positives and false negatives, in float64.

    truth, predicted: id of each pixel's segment, from 0 to 2²⁴ − 1; 0 is none. The area of a true segment is its `area`, where
    the annotation gives one.  Raises UserError where ids of pixels and segments of the prediction differ.
    """
    overlap = _count_pairs(truth, predicted)
    areas: dict[int, int] = {}
    for (_, number), pixels in overlap.items():
        areas[number] = areas.get(number, 0) + pixels
    areas.pop(VOID, None)
    ours = {segment.id: segment for segment in predicted_segments}
    if areas.keys() != ours.keys():
        odd = sorted(areas.keys() ^ ours.keys())[:5]
        raise UserError(f"segments {odd} of a prediction are only in its pixels or only in its list")
    theirs = {segment.id: segment for segment in true_segments}
    counts = torch.zeros(classes, 4, dtype=torch.float64)
    matched: set[tuple[str, int]] = set()
    for (true_id, number), pixels in overlap.items():
        true, ours_here = theirs.get(true_id), ours.get(number)
        if true is None or ours_here is None or true.crowd or true.label != ours_here.label:
            continue
        union = areas[number] + _area(true, overlap) - pixels - overlap.get((VOID, number), 0)
        if pixels / union > 0.5:
            counts[true.label] += torch.tensor([pixels / union, 1, 0, 0], dtype=torch.float64)
            matched |= {("true", true_id), ("predicted", number)}
    crowds = {segment.label: segment.id for segment in true_segments if segment.crowd}
    for segment in true_segments:
        counts[segment.label, 3] += not segment.crowd and ("true", segment.id) not in matched
    for segment in predicted_segments:
        if ("predicted", segment.id) in matched:
            continue
        excused = overlap.get((VOID, segment.id), 0)
        if segment.label in crowds:
            excused += overlap.get((crowds[segment.label], segment.id), 0)
        counts[segment.label, 2] += excused / areas[segment.id] <= 0.5
    return counts


def _count_pairs(truth: Int[np.ndarray, "h w"], predicted: Int[np.ndarray, "h w"]) -> dict[tuple[int, int], int]:
    """Pixels by (true id, predicted id)."""
    pairs, counts = np.unique(truth.astype(np.int64) << 24 | predicted.astype(np.int64), return_counts=True)
    return {(pair >> 24, pair & 0xFFFFFF): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)}


def _area(segment: Segment, overlap: Mapping[tuple[int, int], int]) -> int:
    if segment.area is not None:
        return segment.area
    return sum(pixels for (number, _), pixels in overlap.items() if number == segment.id)


@dataclass(frozen=True, kw_only=True)
class PanopticQuality:
    """pq = sq · rq of each class, from 0 to 1; occurs: whether any segment of it was true or predicted."""

    pq: Float[Tensor, " c"]
    sq: Float[Tensor, " c"]
    rq: Float[Tensor, " c"]
    occurs: Bool[Tensor, " c"]

    def mean(self, chosen: Sequence[bool] | None = None) -> dict[str, float | None]:
        """pq, sq and rq in percent over the chosen classes that occur; None if none does."""
        occurs = self.occurs
        if chosen is not None:
            occurs = occurs & torch.tensor(list(chosen), device=occurs.device)
        if not bool(occurs.any()):
            return dict.fromkeys(("pq", "sq", "rq"))
        return {name: 100 * float(getattr(self, name)[occurs].mean()) for name in ("pq", "sq", "rq")}


def panoptic_quality(counts: Float[Tensor, "c 4"]) -> PanopticQuality:
    """counts: the sum of `count_matches` over all photos. A class without a segment has 0, and no part in means."""
    iou, true_positives, false_positives, false_negatives = counts.unbind(1)
    segments = true_positives + (false_positives + false_negatives) / 2
    return PanopticQuality(
        pq=iou / torch.where(segments > 0, segments, 1),
        sq=iou / true_positives.clamp(min=1),
        rq=true_positives / torch.where(segments > 0, segments, 1),
        occurs=segments > 0,
    )
