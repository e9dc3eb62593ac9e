"""The loss of a detector: proposals are matched with things, each matched one learns class, box and mask, all others that they
are nothing. Every term is a sum over the images divided by the number of things on all processes.

Focal loss: Lin et al., arXiv:1708.02002, equation 5. GIoU: Rezatofighi et al., arXiv:1902.09630.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from vlp.distributed import mean_over_ranks
from vlp.models.dense.boxes import to_centres, to_corners
from vlp.models.dense.detector import Proposals
from vlp.models.dense.dice import dice_losses
from vlp.models.dense.matching import Matched, focal_cost, match_boxes
from vlp.models.dense.places import cell_centres
from vlp.models.precision import to_float32

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss and of its cost
COSTS = {"class": 2.0, "l1": 5.0, "giou": 2.0}


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Of each image. boxes, crowds: left, top, right, bottom in [0, 1] of what the tower saw.  positive: which classes (or
    queries) each thing is.  unknown: classes of which nobody said whether the image shows them, or not of every thing.
    masks: at the size of what the tower saw; None = there are none."""

    boxes: Sequence[Float[Tensor, "_ 4"]]
    positive: Sequence[Bool[Tensor, "_ c"]]
    crowds: Sequence[Float[Tensor, "_ 4"]]
    unknown: Bool[Tensor, "b c"] | None = None
    masks: Sequence[Bool[Tensor, "_ h w"]] | None = None


def detection_loss(
    proposals: Proposals,
    targets: Targets,
    weights: Mapping[str, float],
    *,
    allowed: Bool[Tensor, "b n"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The weighted sum and its terms by name.  weights: of `class`, `l1`, `giou`, `mask`, `dice` and `objectness`.
    allowed: places on the image and not on its padding; None = all."""
    proposals = proposals.map(lambda x: to_float32(x))
    with torch.autocast(proposals.logits.device.type, enabled=False):
        matched = match_boxes(
            focal_cost(proposals.logits, alpha=ALPHA, gamma=GAMMA),
            proposals.boxes,
            [to_centres(rows) for rows in targets.boxes],
            targets.positive,
            weights=tuple(COSTS.values()),
            allowed=allowed,
        )
        things = sum(len(rows) for rows in targets.boxes)
        counted = _counted(proposals, targets, matched, allowed)
        sums = {"class": _class_sum(proposals, targets, matched, counted)} | _box_sums(proposals, targets, matched)
        if proposals.objectness is not None:
            sums["objectness"] = _objectness_sum(proposals.objectness, matched, counted)
        if proposals.pixels is not None:
            sums |= _mask_sums(proposals, targets, matched)
        # a term without a thing still depends on its head, so that each parameter has a gradient on every process
        terms = {name: mean_over_ranks(value, things) for name, value in sums.items()}
        return sum((weights[name] * value for name, value in terms.items()), proposals.logits.new_zeros(())), {
            name: value.detach() for name, value in terms.items()
        }


def _counted(
    proposals: Proposals, targets: Targets, matched: Matched, allowed: Bool[Tensor, "b n"] | None
) -> Bool[Tensor, "b n"]:
    """Places that learn whether they are something: not those on padding, nor unmatched ones inside a crowd."""
    counted = torch.ones_like(proposals.boxes[..., 0], dtype=torch.bool)
    centres = cell_centres(proposals.grid, proposals.boxes)
    for row, crowds in zip(counted, targets.crowds, strict=True):
        if len(crowds):
            inside = (centres[:, None] >= crowds[None, :, :2]) & (centres[:, None] <= crowds[None, :, 2:])
            row &= ~inside.all(-1).any(1)
    if allowed is not None:
        counted &= allowed
    counted[matched.image, matched.prediction] = True
    return counted


def _class_sum(
    proposals: Proposals, targets: Targets, matched: Matched, counted: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    truth = torch.zeros_like(proposals.logits)
    for image, positive in enumerate(targets.positive):
        own = matched.image == image
        truth[image, matched.prediction[own]] = positive[matched.target[own]].to(truth.dtype)
    loss = sigmoid_focal_loss(proposals.logits, truth, alpha=ALPHA, gamma=GAMMA)
    learns = counted[..., None].expand_as(truth)
    if targets.unknown is not None:
        learns = learns & (~targets.unknown[:, None] | truth.bool())
    return loss.where(learns, loss.new_zeros(())).sum()


def _box_sums(proposals: Proposals, targets: Targets, matched: Matched) -> dict[str, Tensor]:
    found = proposals.boxes[matched.image, matched.prediction]
    truth = _of_pairs(targets.boxes, matched, found).to(found.dtype)
    nothing = 0 * proposals.boxes.sum()
    return {
        "l1": (found - to_centres(truth)).abs().sum() + nothing,
        "giou": generalized_box_iou_loss(to_corners(found), truth, reduction="sum") + nothing,
    }


def _objectness_sum(logits: Float[Tensor, "b n"], matched: Matched, counted: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    truth = torch.zeros_like(logits)
    truth[matched.image, matched.prediction] = 1.0
    loss = sigmoid_focal_loss(logits, truth, alpha=ALPHA, gamma=GAMMA)
    return loss.where(counted, loss.new_zeros(())).sum()


def _mask_sums(proposals: Proposals, targets: Targets, matched: Matched) -> dict[str, Tensor]:
    """Binary cross-entropy, as a mean over the pixels of the thing's map, and dice."""
    assert proposals.pixels is not None
    assert proposals.embeddings is not None
    nothing = 0 * (proposals.pixels.sum() + proposals.embeddings.sum())
    if targets.masks is None or not len(matched):
        return {"mask": nothing, "dice": nothing}
    logits = proposals.mask_logits(matched.image, matched.prediction)
    truth = _of_pairs(targets.masks, matched, logits).to(logits.dtype)
    truth = F.interpolate(truth[:, None], logits.shape[1:], mode="area")[:, 0]  # the share of each cell that is covered
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((1, 2)).sum()
    return {"mask": entropy + nothing, "dice": dice_losses(logits.flatten(1), truth.flatten(1)).sum() + nothing}


def _of_pairs(rows: Sequence[Tensor], matched: Matched, like: Tensor) -> Tensor:
    """The target of each pair."""
    starts = torch.tensor([0, *(len(row) for row in rows)], device=like.device).cumsum(0)
    return torch.cat(list(rows)).to(like.device)[starts[matched.image] + matched.target]
