"""Predictions matched one to one with objects, at the least total cost (Carion et al., DETR, arXiv:2005.12872, §3.1).

Costs of all images of a batch are one padded tensor; only the assignment itself runs image by image, on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.models.dense.boxes import to_corners
from vlp.system.errors import UserError

LARGEST_COST = float(np.finfo(np.float32).max)  # stands for what is not finite: chosen only where nothing else is left


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Pair k is prediction `prediction[k]` with target `target[k]` of image `image[k]`; sorted by image, then prediction."""

    image: Int[Tensor, " k"]
    prediction: Int[Tensor, " k"]
    target: Int[Tensor, " k"]

    def __len__(self) -> int:
        return len(self.image)


def softmax_cost(logits: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """DETR's: minus the probability. The last class may be "no object"; no target has it."""
    return -logits.softmax(-1)


def focal_cost(
    logits: Float[Tensor, "b n c"], *, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-8
) -> Float[Tensor, "b n c"]:
    """Deformable DETR's: the focal loss of a positive less that of a negative (Zhu et al., arXiv:2010.04159;
    fundamentalvision/Deformable-DETR models/matcher.py)."""
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -(probability + eps).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + eps).log()
    return positive - negative


def cost_of_positives(cost: Float[Tensor, "b n c"], positive: Bool[Tensor, "b m c"]) -> Float[Tensor, "b n m"]:
    """Of each target, the mean over its classes: an object may have several names."""
    shares = positive / positive.sum(-1, keepdim=True).clamp(min=1)
    return cost @ shares.to(cost.dtype).transpose(1, 2)


def pairwise_l1(boxes: Float[Tensor, "b n d"], targets: Float[Tensor, "b m d"]) -> Float[Tensor, "b n m"]:
    return torch.cdist(boxes, targets, p=1)


def pairwise_giou(boxes: Float[Tensor, "*b n 4"], targets: Float[Tensor, "*b m 4"]) -> Float[Tensor, "*b n m"]:
    """Generalised IoU of corners (Rezatofighi et al., arXiv:1902.09630); equal to torchvision.ops, which takes no batches."""
    first, second = boxes[..., :, None, :], targets[..., None, :, :]
    overlap = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])).clamp(
        min=0
    )
    hull = (torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])).clamp(
        min=0
    )
    intersection, enclosing = overlap.prod(-1), hull.prod(-1)
    union = _area(first) + _area(second) - intersection
    return intersection / union - (enclosing - union) / enclosing


def _area(corners: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    return (corners[..., 2:] - corners[..., :2]).prod(-1)


def pad_targets(rows: Sequence[Tensor], width: int, like: Tensor) -> Tensor:
    """Rows [m …] of each image as [b m …] with zeros; m is at least 1.  width: of the last axis.  like: of the device."""
    longest = max(1, max((len(row) for row in rows), default=0))
    dtype = rows[0].dtype if rows else like.dtype
    padded = torch.zeros(len(rows), longest, width, dtype=dtype, device=like.device)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


@torch.no_grad()
def match_boxes(
    class_cost: Float[Tensor, "b n c"],
    boxes: Float[Tensor, "b n 4"],
    targets: Sequence[Float[Tensor, "_ 4"]],
    positives: Sequence[Bool[Tensor, "_ c"]],
    *,
    weights: Sequence[int | float],
    allowed: Bool[Tensor, "b n"] | None = None,
) -> Matched:
    """boxes, targets: centre, width, height.  positives: the classes of each target.  weights: of class, L1 and GIoU.
    allowed: the predictions that may be chosen; None = all. Where there are more targets than predictions, some have none."""
    padded = pad_targets(targets, 4, boxes).to(boxes.dtype)
    names = pad_targets(positives, class_cost.shape[-1], boxes)
    cost = weights[0] * cost_of_positives(class_cost, names) + weights[1] * pairwise_l1(boxes, padded)
    cost = cost - weights[2] * pairwise_giou(to_corners(boxes), to_corners(padded))
    return assign(cost, [len(row) for row in targets], allowed)


def assign(cost: Float[Tensor, "b n m"], counts: Sequence[int], allowed: Bool[Tensor, "b n"] | None = None) -> Matched:
    """counts: how many columns of each image are real.  allowed: see `match_boxes`."""
    solve = require_solver()
    everything = cost.detach().to(device="cpu", dtype=torch.float64).numpy()
    # a diverged model must reach the check of its loss, and scipy refuses what is not finite
    everything = np.nan_to_num(everything, nan=LARGEST_COST, posinf=LARGEST_COST, neginf=-LARGEST_COST)
    rows = None if allowed is None else allowed.cpu().numpy()
    pairs: list[np.ndarray] = [np.zeros((3, 0), dtype=np.int64)]
    for image, count in enumerate(counts):
        own = np.arange(everything.shape[1]) if rows is None else rows[image].nonzero()[0]
        prediction, target = solve(everything[image, own, :count])
        order = np.argsort(own[prediction], kind="stable")
        pairs.append(np.stack([np.full(len(target), image), own[prediction][order], target[order]]))
    image_row, prediction_row, target_row = torch.from_numpy(np.concatenate(pairs, 1)).to(cost.device)
    return Matched(image=image_row, prediction=prediction_row, target=target_row)


def require_solver() -> Any:
    try:
        return importlib.import_module("scipy.optimize").linear_sum_assignment
    except ImportError as error:
        raise UserError("to match boxes or segments with things needs scipy: run pip install 'vlp[detect]'") from error
