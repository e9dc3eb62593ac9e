"""Figures of grounding: does the box lie on the thing that a phrase names? All boxes are left, top, right, bottom in pixels of
the photo, so that an image that was squashed or padded is measured as the photo is.

The IoU of a box given as [x, y, width, height] with x₂ = x + width − 1, as refer's and ALBEF's `computeIoU` has it
(salesforce/ALBEF dataset/utils.py), counts the pixel again and so equals the plain one; it differs only for overlaps of at most
one pixel. Codes that take such corners for continuous ones or add a pixel to all three areas do differ: `added_pixel`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RANKS = (1, 5, 10)
THRESHOLD = 0.5
PROTOCOLS = ("merged", "any")


def paired_iou(
    first: Float[Tensor, "*m 4"], second: Float[Tensor, "*m 4"], *, added_pixel: bool = False
) -> Float[Tensor, "*m"]:
    """Of box i with box i; 0 where both are empty.  added_pixel: corners are the first and the last pixel of a box, so that
    every side is one pixel longer than their difference."""
    extra = 1.0 if added_pixel else 0.0
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low + extra).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2] + extra).clamp(min=0).prod(-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def merged_box(boxes: Float[Tensor, "m 4"]) -> Float[Tensor, " 4"]:
    """The smallest box around all of them, at least one."""
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])


def phrase_figures(ranked: Float[Tensor, "k 4"], gold: Float[Tensor, "g 4"]) -> dict[str, float]:
    """Of one phrase, whose mean over phrases times 100 is the figure.

    ranked: the boxes found, best first, at least one.  gold: all boxes of what the phrase names (Flickr30k Entities: "two
    men" has two).  merged_r<k>: whether one of the first k has an IoU of 0.5 with the box around all gold ones (Plummer et al.,
    arXiv:1505.04870); any_r<k>: with one of them (Li et al., arXiv:1908.03557; MDETR, arXiv:2104.12763, reports both).  With one
    gold box they are equal.  accuracy, accuracy_pixel, mean_iou: of the first box with the merged one.
    """
    merged = merged_box(gold)
    first_iou = paired_iou(ranked[0], merged)
    pixel_iou = paired_iou(ranked[0], merged, added_pixel=True)
    figures = {
        "accuracy": float(first_iou >= THRESHOLD),
        "accuracy_pixel": float(pixel_iou >= THRESHOLD),
        "mean_iou": float(first_iou),
    }
    for protocol, boxes in zip(PROTOCOLS, (merged[None], gold), strict=True):
        pairs = paired_iou(*torch.broadcast_tensors(ranked[:, None], boxes[None]))
        best = pairs.amax(1)  # of each ranked box
        figures |= {f"{protocol}_r{k}": float((best[:k] >= THRESHOLD).any()) for k in RANKS}
    return figures


def mask_overlap(
    found: Bool[Tensor, "*m h w"], gold: Bool[Tensor, "*m h w"]
) -> tuple[Float[Tensor, "*m"], Float[Tensor, "*m"]]:
    """Pixels in both and pixels in either. mIoU is the mean over phrases of their ratio, oIoU the ratio of their sums (the
    "cumulative IoU" of Hu et al., arXiv:1603.06180)."""
    both, either = (found & gold), (found | gold)
    return both.flatten(-2).sum(-1).double(), either.flatten(-2).sum(-1).double()
