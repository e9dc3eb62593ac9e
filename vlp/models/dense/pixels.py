"""Maps of an image's pixels from the states of any vision tower: a linear one, which probes the tower, and one that learns to
upsample.

Both read the raster of `Tokens.states` and, where levels are named, the inner maps of `Tokens.levels`. Their outputs are
vectors for each position, to be multiplied with those of classes, texts, boxes or queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.structures import Tokens
from vlp.system.errors import UserError


def raster_of(tokens: Tokens) -> Float[Tensor, "b d h w"]:
    """The states of the image's positions as a map.  Raises UserError for a tower without a raster."""
    if tokens.grid is None:
        raise UserError(
            "this vision tower has no raster of states, which pixels are predicted from: choose another tower, and one without "
            "merging of tokens (model/vision/merging=null)"
        )
    rows, columns = tokens.grid
    return rearrange(tokens.states[:, -rows * columns :], "b (h w) d -> b d h w", h=rows)


def resize_map(x: Float[Tensor, "b d _ _"], size: tuple[int, int]) -> Float[Tensor, "b d _ _"]:
    """To (rows, columns): means of cells where both sides shrink, else bilinear between the centres of cells."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def check_levels(levels: Sequence[str], level_widths: Sequence[int]) -> tuple[str, ...]:
    if len(levels) != len(level_widths):
        raise UserError(f"levels={list(levels)} have level_widths={list(level_widths)}: give one width for each level")
    return tuple(levels)


def level_of(tokens: Tokens, name: str) -> Float[Tensor, "b d h w"]:
    if tokens.levels is None or name not in tokens.levels:
        raise UserError(f"the head reads the level {name}, and the tower was run without it")
    return tokens.levels[name]


def sum_at_largest(maps: Sequence[Float[Tensor, "b d _ _"]]) -> Float[Tensor, "b d h w"]:
    """Of maps of one width, each resized to the size of the largest."""
    rows, columns = (max(x.shape[side] for x in maps) for side in (-2, -1))
    return torch.stack([resize_map(x, (rows, columns)) for x in maps]).sum(0)


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of each position of a map."""

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Twice the side: a transposed convolution, GELU, a 3×3 convolution of each channel, and a norm (EoMT's ScaleBlock:
    Kerssies et al., arXiv:2503.19108; tue-mps/eomt models/scale_block.py).  eps: of the norm."""

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.spread = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.activation = nn.GELU()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels, eps=eps)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        return self.norm(self.depthwise(self.activation(self.spread(x))))


class PixelMap(nn.Module):
    """The raster's states, normalised and mapped to `channels`, through `up` blocks of twice the side each; a level is added
    where the map's size is nearest to its own (Lin et al., "Feature Pyramid Networks", arXiv:1612.03144).

    states_width: of the tower's states.  levels, level_widths: names of its inner maps and their channels.
    up: 2 with patches of 16 pixels gives a map of a quarter of the image's side.
    """

    def __init__(
        self,
        *,
        states_width: int,
        channels: int,
        up: int = 2,
        levels: Sequence[str] = (),
        level_widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if up < 0:
            raise UserError(f"up={up}: give the number of times that the side of the map is doubled, from 0")
        self.channels, self.levels = channels, check_levels(levels, level_widths)
        self.states = nn.Sequential(LayerNorm2d(states_width), nn.Conv2d(states_width, channels, 1))
        self.lateral = nn.ModuleList(
            nn.Sequential(LayerNorm2d(width), nn.Conv2d(width, channels, 1)) for width in level_widths
        )
        self.blocks = nn.ModuleList(Upsample(channels) for _ in range(up))

    def forward(self, tokens: Tokens) -> Float[Tensor, "b {self.channels} _ _"]:
        """[b channels rows·2^up columns·2^up]."""
        x = self.states(raster_of(tokens))
        steps: list[list[Tensor]] = [[] for _ in range(len(self.blocks) + 1)]
        for name, lateral in zip(self.levels, self.lateral, strict=True):
            level = level_of(tokens, name)
            step = round(math.log2(level.shape[-2] / x.shape[-2]))
            steps[min(max(step, 0), len(self.blocks))].append(lateral(level))
        for block, added in zip((nn.Identity(), *self.blocks), steps, strict=True):
            x = block(x)
            for level in added:
                x = x + resize_map(level, (x.shape[-2], x.shape[-1]))
        return x


class LinearMap(nn.Module):
    """A linear function of each position's states: batch norm and a 1×1 convolution (the probe of Oquab et al., "DINOv2",
    arXiv:2304.07193, §7.4).

    With levels it is that of all maps resized to the largest and concatenated; a linear map and bilinear resizing commute, so
    each is mapped at its own size, and the results are added.
    """

    def __init__(
        self, *, states_width: int, channels: int, levels: Sequence[str] = (), level_widths: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.channels, self.levels = channels, check_levels(levels, level_widths)
        self.states = nn.Sequential(nn.BatchNorm2d(states_width), nn.Conv2d(states_width, channels, 1))
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, channels, 1, bias=False)) for width in level_widths
        )

    def forward(self, tokens: Tokens) -> Float[Tensor, "b {self.channels} _ _"]:
        """Of the size of the largest map."""
        maps = [self.states(raster_of(tokens))]
        maps += [lateral(level_of(tokens, name)) for name, lateral in zip(self.levels, self.lateral, strict=True)]
        return sum_at_largest(maps)
