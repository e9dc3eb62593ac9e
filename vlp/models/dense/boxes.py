"""A box from each place, as its centre, width and height in [0, 1] of what the tower saw.

Default: the centre lies within ±`reach` cells of the place's own, through a sigmoid, and the size is 2 cells times an
exponential: at the start every box is two cells around its own, wherever the place lies.
`owl`: OWL-ViT's, whose bias is the logit of the cell's corner (Minderer et al., arXiv:2205.06230; scenic
projects/owl_vit/layers.py and transformers models/owlvit `compute_box_bias`): half a cell off and saturated at the border;
for its checkpoints.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.dense.places import cell_centres
from vlp.system.errors import UserError

LARGEST = 6.0  # of the logarithm of a size in units of two cells: 800 cells
ANCHORS = ("cells", "owl")


class PlaceMlp(nn.Module):
    """`layers` linear maps with exact GELU between them, all but the last of the input's width."""

    def __init__(self, *, width: int, out_width: int, layers: int = 3) -> None:
        super().__init__()
        widths = [width] * layers + [out_width]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n o"]:
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)


class BoxHead(nn.Module):
    """anchor: "cells" or "owl", see above.  reach: cells.  layers: linear maps (OWL-ViT: 3).

    The last layer starts near 0, unless anchor is "owl": every box is then two cells around its place. Raises UserError."""

    def __init__(self, *, width: int, layers: int = 3, anchor: str = "cells", reach: float = 4.0) -> None:
        super().__init__()
        if anchor not in ANCHORS:
            raise UserError(f"anchor={anchor!r} of boxes: choose {' or '.join(ANCHORS)}")
        self.anchor, self.reach = anchor, reach
        self.mlp = PlaceMlp(width=width, out_width=4, layers=layers)
        if anchor == "cells":
            last: nn.Linear = self.mlp.layers[-1]  # type: ignore[assignment]
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)

    def forward(self, places: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b n 4"]:
        """Centre x, centre y, width, height."""
        found = self.mlp(places)
        if self.anchor == "owl":
            return (found + owl_bias(grid, found)).sigmoid()
        cell = torch.tensor([1 / grid[1], 1 / grid[0]], device=found.device, dtype=found.dtype)
        centre = cell_centres(grid, found) + self.reach * cell * (2 * found[..., :2].sigmoid() - 1)
        size = 2 * cell * found[..., 2:].clamp(-LARGEST, LARGEST).exp()
        return torch.cat([centre, size], -1)


def owl_bias(grid: tuple[int, int], like: Tensor) -> Float[Tensor, "n 4"]:
    """Logits of the corner of each cell, right and bottom, and of the size of a cell."""
    rows, columns = grid
    y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 1) / rows
    x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 1) / columns
    corner = torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1).clamp(0, 1)
    size = torch.ones_like(corner) / torch.tensor([columns, rows], device=like.device, dtype=like.dtype)
    return torch.cat([_owl_logit(corner), _owl_logit(size)], 1)


def _owl_logit(value: Tensor) -> Tensor:
    return torch.log(value + 1e-4) - torch.log1p(-value + 1e-4)


def to_corners(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Centre, width, height → left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def to_centres(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Left, top, right, bottom → centre, width, height."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def to_photo(corners: Float[Tensor, "m 4"], frame: Float[Tensor, " 4"]) -> Float[Tensor, "m 4"]:
    """From [0, 1] of an image to pixels of the upright photo.  frame: a row of `Batch.frame`; also of a mirrored image."""
    left, top, width, height = frame.to(corners).unbind()
    x, y = left + corners[:, 0::2] * width, top + corners[:, 1::2] * height
    x = x.sort(dim=1).values
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def to_image(boxes: Float[Tensor, "m 4"], frame: Float[Tensor, " 4"]) -> Float[Tensor, "m 4"]:
    """From pixels of the photo to [0, 1] of an image: the inverse of `to_photo`.  frame: a row of `Batch.frame`."""
    left, top, width, height = frame.to(boxes).unbind()
    x, y = ((boxes[:, 0::2] - left) / width).sort(dim=1).values, (boxes[:, 1::2] - top) / height
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
