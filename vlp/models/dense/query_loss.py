"""Mask2Former's loss: each true segment is given to one query, chosen by class and mask together; its mask is compared at points,
most of them where the query is uncertain (Cheng et al., arXiv:2112.01527, §3.3; Kirillov et al., arXiv:1912.08193, §3.1).

Sums are divided by the numbers of all ranks, and points are drawn from each sample's own seed, so that neither processes nor the
order of samples change the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.distributed import mean_over_ranks
from vlp.models.dense.dice import dice_losses
from vlp.models.dense.matching import assign
from vlp.models.dense.segments import FactoredMasks, FactoredSegments, ImageMasks, QueriedSegments, read_points
from vlp.models.precision import to_float32
from vlp.random import mix

LOSSES = {"class": 2.0, "mask": 5.0, "dice": 5.0}
OVERSAMPLED, UNCERTAIN = 3, 0.75  # candidates for each point; the share of points that are the most uncertain of these


@dataclass(frozen=True, kw_only=True)
class TrueSegments:
    """Of one image: the class of each segment, and its mask as 0 and 1."""

    label: Int[Tensor, " m"]
    mask: Float[Tensor, "m h w"]


def _draw(count: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(*count, 2, generator=generator).to(like)


@torch.no_grad()
def match_segments(
    classes: Float[Tensor, "q c"],
    masks: Float[Tensor, "q p"],
    label: Int[Tensor, " m"],
    true: Float[Tensor, "m p"],
    weights: Mapping[str, float],
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The query of each true segment, and that segment, in the order of queries.  masks, true: logits and masks at the same
    points."""
    masks, true = masks.float(), true.float()
    probability = -classes.float().softmax(-1)[:, label]
    positive = F.softplus(-masks)  # cross-entropy of a point that is inside
    negative = positive + masks  # or outside
    cross_entropy = (positive @ true.T + negative @ (1 - true).T) / masks.shape[1]
    shown = masks.sigmoid()
    dice = 1 - (2 * shown @ true.T + 1) / (shown.sum(1)[:, None] + true.sum(1) + 1)
    cost = weights["class"] * probability + weights["mask"] * cross_entropy + weights["dice"] * dice
    matched = assign(cost[None], [len(label)])
    return matched.prediction, matched.target


@torch.no_grad()
def uncertain_points(
    masks: Float[Tensor, "m h w"], points: int, generator: torch.Generator
) -> Float[Tensor, "m {points} 2"]:
    """Of each mask: those near its border, where logits are about 0, and some anywhere."""
    candidates = _draw((len(masks), OVERSAMPLED * points), generator, masks)
    uncertain = int(UNCERTAIN * points)
    order = read_points(masks, candidates).abs().topk(uncertain, dim=1, largest=False).indices
    chosen = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, _draw((len(masks), points - uncertain), generator, masks)], dim=1)


def query_loss(
    found: Sequence[QueriedSegments | FactoredSegments],
    true: Sequence[TrueSegments],
    seeds: Sequence[int],
    *,
    points: int = 12_544,
    no_object: float = 0.1,
    weights: Mapping[str, float] = LOSSES,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum over all of `found`, and its terms of the last.

    seeds: of each sample and step.  points: of each mask.  no_object: weight of queries without a segment in the class's term.
    """
    total: Tensor | None = None
    logs: dict[str, Tensor] = {}
    for number, segments in enumerate(found):
        terms = _terms(segments, true, [mix(seed, number) for seed in seeds], points, no_object, weights)
        logs = {name: term.detach() for name, term in terms.items()}
        value = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        total = value if total is None else total + value
    assert total is not None
    return total, logs


def _terms(
    segments: QueriedSegments | FactoredSegments, true: Sequence[TrueSegments], seeds: Sequence[int], points: int, no_object: float,
    weights: Mapping[str, float],
) -> dict[str, Tensor]:  # fmt: skip
    classes = to_float32(segments.classes)
    none = classes.shape[-1] - 1
    target = torch.full(classes.shape[:2], none, device=classes.device)
    chosen: list[Tensor] = []
    at: list[Tensor] = []
    images: Iterator[ImageMasks | FactoredMasks] = segments.of_images()
    for row, (of_image, one, seed) in enumerate(zip(images, true, seeds, strict=True)):
        if not len(one.label):
            continue
        generator = torch.Generator().manual_seed(seed)
        same = _draw((1, points), generator, classes)
        shown = read_points(one.mask.to(classes), same.expand(len(one.mask), -1, -1))
        queries, order = match_segments(classes[row], of_image.at(same), one.label, shown, weights)
        target[row, queries] = one.label[order]
        own, truth = of_image.of(queries), one.mask[order].to(classes)
        places = uncertain_points(own, points, generator)
        chosen.append(read_points(own, places))
        at.append(read_points(truth, places))
    weight = torch.ones(none + 1, device=classes.device, dtype=classes.dtype)
    weight[none] = no_object
    summed = F.cross_entropy(classes.flatten(0, 1), target.flatten(), weight=weight, reduction="sum")
    nothing = segments.nothing()  # so that a rank without any segment takes part in the gradient
    logits = torch.cat(chosen) if chosen else classes.new_zeros(0, points)
    inside = torch.cat(at) if at else classes.new_zeros(0, points)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, inside, reduction="none").mean(1).sum()
    return {
        "class": mean_over_ranks(summed, weight[target].sum()),
        "mask": mean_over_ranks(cross_entropy + nothing, len(logits)),
        "dice": mean_over_ranks(dice_losses(logits, inside).sum() + nothing, len(logits)),
    }
