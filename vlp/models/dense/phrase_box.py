"""One box for each phrase from its fused text: X-VLM's head and loss (Zeng et al., arXiv:2111.08276, equation 3; zengyan-97/X-VLM
models/xvlm.py `build_mlp`, `predict_bbox`, `get_bbox_loss`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.dense.boxes import to_centres, to_corners
from vlp.models.dense.matching import pairwise_giou
from vlp.structures import Boxes, Record


@dataclass(frozen=True, kw_only=True)
class Grounded(Record):
    """Of one phrase: boxes (left, top, right, bottom in pixels of the photo), the best first; their scores, where there are any,
    and heat on the cells of the image, where the boxes come from it."""

    boxes: Float[Tensor, "k 4"]
    scores: Float[Tensor, " k"] | None = None
    heat: Float[Tensor, "rows columns"] | None = None


class PhraseBoxHead(nn.Module):
    """width: of the fusion's pooled state."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 4)
        )

    def forward(self, pooled: Float[Tensor, "r d"]) -> Float[Tensor, "r 4"]:
        """Centre x and y, width and height, in [0, 1] of the image."""
        return self.layers(pooled).sigmoid()


def phrase_box_losses(
    found: Float[Tensor, "t 4"], corners: Float[Tensor, "t 4"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sums over phrases of the L1 distance (over centre, width and height) and of 1 − GIoU.

    found: centre, width, height.  corners: left, top, right, bottom, of boxes with an area."""
    corners = corners.to(found.dtype)
    giou = pairwise_giou(to_corners(found)[:, None], corners[:, None])[:, 0, 0]
    return (found - to_centres(corners)).abs().sum(), (1 - giou).sum()


def boxes_of_texts(boxes: Sequence[Boxes], owner: Int[Tensor, " r"]) -> tuple[Int[Tensor, " t"], Float[Tensor, "t 4"]]:
    """The texts of a batch that have boxes, and for each the smallest box around all of its own (a phrase may name several
    things); left, top, right, bottom.  boxes: of each image.  owner: the image of each text, sorted."""
    first = torch.searchsorted(owner, torch.arange(len(boxes), device=owner.device))
    label = torch.cat([row.label for row in boxes])
    image = torch.repeat_interleave(
        torch.arange(len(boxes), device=owner.device),
        torch.tensor([len(row.label) for row in boxes], device=owner.device),
    )
    corners, of_a_phrase = torch.cat([row.xyxy for row in boxes]), label >= 0
    text = (first[image] + label)[of_a_phrase]
    index = text[:, None].expand(-1, 2)
    low = corners.new_full((len(owner), 2), torch.inf).scatter_reduce(0, index, corners[of_a_phrase, :2], "amin")
    high = corners.new_full((len(owner), 2), -torch.inf).scatter_reduce(0, index, corners[of_a_phrase, 2:], "amax")
    rows = (high > low).all(1).nonzero()[:, 0]  # an empty box has no size to learn
    return rows, torch.cat([low, high], 1)[rows]
