"""Features of the boxes that a text mentions, added to the tokens that mention them: how R2C (Zellers et al., arXiv:1811.10830, §5)
and VL-BERT (Su et al., arXiv:1908.08530) tell a model which person "person 2" is, where the picture has no drawn marks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vlp.models.dense.regions import region_features
from vlp.structures import Boxes, Text, Tokens
from vlp.system.errors import UserError


class MentionedRegions(nn.Module):
    """image_width, text_width: of the towers' states. At first the map adds little; its bias says that a box is mentioned."""

    def __init__(self, image_width: int, text_width: int) -> None:
        super().__init__()
        self.map = nn.Linear(image_width, text_width)
        nn.init.normal_(self.map.weight, std=0.02)
        nn.init.zeros_(self.map.bias)

    def forward(
        self, tokens: Tokens, text: Text, image: Tokens, boxes: Sequence[Boxes] | None, owner: Int[Tensor, " r"]
    ) -> Tokens:
        """The text's tokens, each with the mean of its boxes' features added; a box that the view does not show adds nothing.
        owner: the image of each text."""
        if boxes is None or text.regions is None:
            raise UserError(
                "tasks.vcr.region_widths needs boxes and the words that mention them: set data.regions=true"
            )
        features = self.map(region_features(image, boxes))
        rows = box_rows(text.regions, boxes, owner)
        shown = rows >= 0
        added = (features[rows.clamp(min=0)] * shown[..., None]).sum(2) if len(features) else 0 * tokens.states
        added = added / shown.sum(2).clamp(min=1)[..., None]
        return dataclasses.replace(tokens, states=tokens.states + added)


def box_rows(regions: Int[Tensor, "r t m"], boxes: Sequence[Boxes], owner: Int[Tensor, " r"]) -> Int[Tensor, "r t m"]:
    """Of the boxes that each token mentions the rows among those of all images in order; -1 where the view shows no such box."""
    positions = [_positions(own) for own in boxes]
    size = 1 + max((int(x.max()) for x in (regions, *positions) if x.numel()), default=0)
    table = torch.full((len(boxes), max(size, 1)), -1, device=regions.device)
    start = 0
    for rows, own in zip(table, positions, strict=True):
        rows[own] = torch.arange(start, start + len(own), device=regions.device)
        start += len(own)
    return table[owner[:, None, None], regions.clamp(min=0)].where(regions >= 0, -1)


def _positions(boxes: Boxes) -> Int[Tensor, " m"]:
    """Of each box that the view shows among the sample's."""
    if boxes.index is not None:
        return boxes.index
    return torch.arange(len(boxes.label), device=boxes.label.device)
