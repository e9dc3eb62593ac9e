"""Segments from learned queries: behind the tower, queries and the states of the raster pass through a few blocks of self-attention
of the head's own; each query then says its class, or that it is no object, and its mask, a dot product with a map of pixels.

EoMT's idea (Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", arXiv:2503.19108) in a form that fits every
tower and leaves it as it is, so without attention that is masked by the masks so far. Semantic, instance and panoptic segmentation
are readings of the same segments (Cheng et al., "Masked-attention Mask Transformer", arXiv:2112.01527).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.dense.pixels import PixelMap, raster_of
from vlp.models.dense.places import cell_centres
from vlp.models.dense.segments import Discs, FactoredSegments, QueriedSegments
from vlp.models.layers import Layout, PreNormBlock
from vlp.models.precision import to_float32
from vlp.structures import Tokens
from vlp.system.errors import UserError

LARGEST = 3.0  # of the logarithm of a disc's radius in units of one and a half cells: 30 cells


def sine_positions(rows: int, columns: int, width: int, like: Tensor) -> Float[Tensor, "{rows}*{columns} {width}"]:
    """Of a raster's cells: sines and cosines of y and x, a quarter of the width each (Carion et al., arXiv:2005.12872, A.4)."""
    quarter = width // 4
    frequency = 2 * math.pi * 10000.0 ** -(torch.arange(quarter, device=like.device) / quarter)
    y = ((torch.arange(rows, device=like.device) + 0.5) / rows)[:, None] * frequency
    x = ((torch.arange(columns, device=like.device) + 0.5) / columns)[:, None] * frequency
    y, x = y.repeat_interleave(columns, 0), x.repeat(rows, 1)
    return F.pad(torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], 1), (0, width - 4 * quarter)).to(like)


class QueryHead(nn.Module):
    """classes: how many have vectors; None = embeddings of texts score, of embed_width.  queries: at most so many segments of an
    image.  blocks, heads, width: of the blocks.  up, levels, level_widths: of the map of pixels, see `PixelMap`.
    place_queries: whether each place of the raster is a query too. It begins with what lies there and with a disc around it as its
    mask, where a learned query must first find its thing (as the selected queries of Zhu et al., arXiv:2010.04159, §4.2, do,
    without a selection), and the discs of two equal things differ also where the tower does not say where its states are."""

    def __init__(
        self, *, states_width: int, classes: int | None, embed_width: int = 0, queries: int = 100, width: int = 256,
        blocks: int = 3, heads: int = 8, up: int = 2, levels: Sequence[str] = (), level_widths: Sequence[int] = (),
        place_queries: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if queries < 1 or blocks < 1:
            raise UserError(f"queries={queries}, blocks={blocks} of a panoptic head: give 1 or more of each")
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.states = nn.Sequential(nn.LayerNorm(states_width), nn.Linear(states_width, width))
        self.blocks = nn.ModuleList(
            PreNormBlock(width=width, heads=heads, mlp_ratio=4.0, activation="gelu", norm_eps=1e-6)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pixels = PixelMap(
            states_width=states_width, channels=width, up=up, levels=levels, level_widths=level_widths
        )
        self.mask = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.disc = (
            nn.Linear(width, 3) if place_queries else None
        )  # offset of the middle in x and y, logarithm of the radius
        if self.disc is not None:
            nn.init.normal_(self.disc.weight, std=1e-3)
            nn.init.zeros_(self.disc.bias)
        self.classes = nn.Linear(width, (1 if classes is None else classes + 1))
        self.embed = nn.Linear(width, embed_width) if classes is None else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0))) if classes is None else None

    def forward(
        self, tokens: Tokens, texts: Float[Tensor, "c e"] | None = None
    ) -> list[QueriedSegments | FactoredSegments]:
        """Before the first block and after each; the last is the result, the others are trained too."""
        raster = raster_of(tokens)
        pixels, (rows, columns) = self.pixels(tokens), raster.shape[-2:]
        states = self.states(rearrange(raster, "b d h w -> b (h w) d"))
        states = states + sine_positions(rows, columns, states.shape[-1], states)
        x = torch.cat([self.queries.to(states).expand(states.shape[0], -1, -1), states], dim=1)
        layout = Layout(x.shape[0], x.shape[1])
        found = [self._read(x, pixels, texts, (rows, columns))]
        for block in self.blocks:
            x = layout.unpack(block(x.flatten(0, 1), layout))
            found.append(self._read(x, pixels, texts, (rows, columns)))
        return found

    def _read(
        self,
        x: Float[Tensor, "b n d"],
        pixels: Float[Tensor, "b d h w"],
        texts: Float[Tensor, "c e"] | None,
        grid: tuple[int, int],
    ) -> QueriedSegments | FactoredSegments:
        queries = self.norm(x if self.disc is not None else x[:, : len(self.queries)])
        classes = self.classes(queries)
        if self.embed is not None and self.log_scale is not None:
            if texts is None:
                raise UserError("this panoptic head scores segments by texts, and none were given")
            cosine = F.normalize(self.embed(queries), dim=-1) @ F.normalize(texts.to(queries), dim=-1).T
            classes = torch.cat([self.log_scale.exp() * cosine, classes], dim=-1)
        embeddings = self.mask(queries) / math.sqrt(pixels.shape[1])
        if self.disc is None:
            return QueriedSegments(classes=classes, masks=torch.einsum("bqd,bdhw->bqhw", embeddings, pixels))
        disc = to_float32(self.disc(queries[:, len(self.queries) :]))
        own = cell_centres(grid, disc) * disc.new_tensor([grid[1], grid[0]])
        radius = 1.5 * disc[..., 2:].clamp(-LARGEST, LARGEST).exp()
        discs = Discs(centre=own + disc[..., :2], radius=radius, grid=grid)
        return FactoredSegments(classes=classes, embeddings=embeddings, pixels=pixels, discs=discs)
