"""A vision tower's raster as places: each is one state, with the centre of its cell of the image.

Coordinates are x, y in [0, 1] of the tensor that the tower saw, which is a batch of padded images where their sizes differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.dense.pixels import check_levels, level_of, raster_of, sum_at_largest
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


def cell_centres(grid: tuple[int, int], like: Tensor) -> Float[Tensor, "n 2"]:
    """x, y of each cell, row by row.  like: of the device and type wanted."""
    rows, columns = grid
    y = (torch.arange(rows, device=like.device) + 0.5) / rows
    x = (torch.arange(columns, device=like.device) + 0.5) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1).to(like.dtype)


def image_extent(image: Image, like: Tensor) -> Float[Tensor, "b 2"]:
    """Width and height of each image as shares of the padded tensor: 1, 1 where none is padded."""
    rows, columns = image.pixels.shape[-2:]
    if image.size is None:
        return like.new_ones(len(image.pixels), 2)
    return image.size.flip(-1).to(like) / torch.tensor([columns, rows], device=like.device, dtype=like.dtype)


def places_on_image(grid: tuple[int, int], extent: Float[Tensor, "b 2"]) -> Bool[Tensor, "b n"]:
    """Whether a place's centre lies on the image and not on its padding."""
    return (cell_centres(grid, extent) < extent[:, None]).all(-1)


class Places(nn.Module):
    """Tokens → the states of the raster [b n width], their grid, and which of them are real.

    width: of the tower's states.  With levels, it is that of a map of the size of the largest level, to which each level is mapped
    linearly, resized and added, as is the raster (the top-down sum of Lin et al., arXiv:1612.03144, without its convolutions).
    class_token: multiply each state by the first one, as OWL-ViT does (Minderer et al., arXiv:2205.06230; scenic
    projects/owl_vit/models.py), before the norm.
    norm: LayerNorm of each place.  eps: of the norm.
    """

    def __init__(
        self,
        *,
        width: int,
        states_width: int | None = None,
        levels: Sequence[str] = (),
        level_widths: Sequence[int] = (),
        class_token: bool = False,
        norm: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        states_width = width if states_width is None else states_width
        if not levels and width != states_width:
            raise UserError(f"places of width {width} from states of width {states_width}: name levels to map them")
        self.width, self.levels, self.class_token = width, check_levels(levels, level_widths), class_token
        self.lateral = nn.ModuleList(nn.Conv2d(each, width, 1) for each in level_widths)
        self.states = nn.Conv2d(states_width, width, 1) if levels else None
        self.norm = nn.LayerNorm(width, eps=eps) if norm else None

    def forward(self, tokens: Tokens) -> tuple[Float[Tensor, "b n {self.width}"], tuple[int, int]]:
        """The places and their grid.  Raises UserError for a tower without a raster."""
        raster = raster_of(tokens)
        if self.class_token:
            if tokens.states.shape[1] == raster.shape[2] * raster.shape[3]:
                raise UserError("class_token=true: this vision tower has no class token; set it to false")
            raster = raster * tokens.states[:, 0, :, None, None]
        if self.states is not None:
            laterals = zip(self.levels, self.lateral, strict=True)
            raster = sum_at_largest(
                [self.states(raster), *(lateral(level_of(tokens, name)) for name, lateral in laterals)]
            )
        places = rearrange(raster, "b d h w -> b (h w) d")
        grid = (raster.shape[2], raster.shape[3])
        return (places if self.norm is None else self.norm(places)), grid
