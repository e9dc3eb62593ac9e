"""EoMT: a plain ViT whose last blocks also process queries, each of which becomes a segment (Kerssies et al., "Your ViT is Secretly
an Image Segmentation Model", arXiv:2503.19108; transformers models/eomt, with DINOv2's tower).

Queries may be kept from attending to patches outside their masks so far; checkpoints whose training has annealed this to none
have `mask_probability` 0. The task panoptic reads the segments with head=tower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.dense.pixels import Upsample
from vlp.models.dense.segments import QueriedSegments
from vlp.models.layers import Attention, Layout, Linear, Mlp, num_heads
from vlp.models.vision.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class SwiGlu(nn.Module):
    """silu(x W) · x V, mapped back; two thirds of the hidden width, rounded up to a multiple of 8 (DINOv2's giant model)."""

    def __init__(self, *, width: int, hidden_width: int) -> None:
        super().__init__()
        hidden_width = (int(hidden_width * 2 / 3) + 7) // 8 * 8
        self.gate, self.up = Linear(width, hidden_width), Linear(width, hidden_width)
        self.down = Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class ScaledBlock(nn.Module):
    """A pre-norm block whose two branches are multiplied by learned vectors (LayerScale, Touvron et al., arXiv:2103.17239)."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        mlp_ratio: float | int,
        activation: str,
        swiglu: bool,
        eps: float,
        scale: float | int,
    ) -> None:
        super().__init__()
        hidden_width = int(width * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width=width, heads=heads)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), float(scale))) for _ in range(2))
        self.mlp: nn.Module = (
            SwiGlu(width=width, hidden_width=hidden_width)
            if swiglu
            else Mlp(width=width, hidden_width=hidden_width, activation=activation)
        )

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b 1 n n"] | None = None) -> Float[Tensor, "b n d"]:
        layout = Layout(x.shape[0], x.shape[1])
        rows = x.flatten(0, 1)
        rows = rows + self.scale1 * self.attention(self.norm1(rows), layout, mask, False)
        rows = rows + self.scale2 * self.mlp(self.norm2(rows))
        return layout.unpack(rows)


class EomtVit(nn.Module):
    """image_size, patch_size: pixels of a side.  registers: tokens after the class token that stand for nothing.
    query_blocks: how many of the last blocks process queries.  classes: of segments, without "no object".
    up: how often the raster's side is doubled for masks.  swiglu: see `SwiGlu`.  layer_scale: at the start."""

    def __init__(
        self, *, image_size: int, patch_size: int, width: int, layers: int, classes: int, heads: int | None = None,
        mlp_ratio: float | int = 4, activation: str = "gelu", swiglu: bool = False, registers: int = 4, queries: int = 200,
        query_blocks: int = 4, up: int = 2, norm_eps: float = 1e-6, layer_scale: float | int = 1.0,
        mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch_size or not 0 < query_blocks <= layers:
            raise UserError(
                f"image_size={image_size} must be a multiple of patch_size={patch_size}, and query_blocks={query_blocks} at most "
                f"layers={layers}"
            )
        self.image_size, self.patch_size, self.width, self.prefix = image_size, patch_size, width, 1 + registers
        self.grid, self.num_classes = (image_size // patch_size, image_size // patch_size), classes
        self.normalize = Normalize(mean=mean, std=std)
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.registers = nn.Parameter(torch.zeros(1, registers, width))
        self.positions = nn.Parameter(0.02 * torch.randn(self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(
            ScaledBlock(
                width=width, heads=num_heads(width, heads, "vision_heads"), mlp_ratio=mlp_ratio, activation=activation,
                swiglu=swiglu, eps=norm_eps, scale=layer_scale,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.upscale = nn.ModuleList(Upsample(width) for _ in range(up))
        self.mask = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.classes = nn.Linear(width, classes + 1)
        self.mask_probability: Tensor
        self.register_buffer("mask_probability", torch.ones(query_blocks))

    def forward(self, image: Image) -> Tokens:
        """The states of class token, registers and raster, normed; those of the queries are `query`'s."""
        states = self._run(image)[0][:, len(self.queries) :]
        return Tokens(states=states, pooled=states[:, 0], grid=self.grid)

    def query(self, image: Image) -> list[QueriedSegments]:
        """Those that the masked blocks read, and at the end the result."""
        return self._run(image)[1]

    def _run(self, image: Image) -> tuple[Float[Tensor, "b n d"], list[QueriedSegments]]:
        pixels = self.normalize(image)
        if tuple(pixels.shape[-2:]) != (self.image_size, self.image_size):
            raise UserError(
                f"images of {tuple(pixels.shape[-2:])} pixels for a tower of {self.image_size}: give the transform this size"
            )
        raster = rearrange(self.patches(pixels), "b d h w -> b (h w) d") + self.positions
        rows = len(raster)
        x = torch.cat([self.class_token.expand(rows, -1, -1), self.registers.expand(rows, -1, -1), raster], 1)
        without = len(self.blocks) - len(self.mask_probability)
        found: list[QueriedSegments] = []
        for number, block in enumerate(self.blocks):
            mask = None
            if number == without:
                x = torch.cat([self.queries.expand(rows, -1, -1), x], 1)
            if number >= without:
                probability = float(self.mask_probability[number - without])
                if self.training or probability > 0:
                    found.append(self._read(self.norm(x)))
                    mask = self._attention_mask(found[-1].masks, x.shape[1], probability)
            x = block(x, mask)
        x = self.norm(x)
        return x, [*found, self._read(x)]

    def _read(self, x: Float[Tensor, "b n d"]) -> QueriedSegments:
        queries, pixels = x[:, : len(self.queries)], x[:, len(self.queries) + self.prefix :]
        maps = rearrange(pixels, "b (h w) d -> b d h w", h=self.grid[0])
        for block in self.upscale:
            maps = block(maps)
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask(queries), maps)
        return QueriedSegments(classes=self.classes(queries), masks=masks)

    def _attention_mask(
        self, masks: Float[Tensor, "b q _ _"], tokens: int, probability: float
    ) -> Bool[Tensor, "b 1 {tokens} {tokens}"]:
        """A query attends to patches inside its mask, with that probability, else to all; all others attend to all."""
        inside = F.interpolate(masks, self.grid, mode="bilinear", align_corners=False).flatten(2) > 0
        if probability < 1:
            inside = inside | (torch.rand(inside.shape[:2], device=inside.device) > probability)[..., None]
        allowed = torch.ones(len(masks), tokens, tokens, dtype=torch.bool, device=masks.device)
        allowed[:, : masks.shape[1], masks.shape[1] + self.prefix :] = inside
        return allowed[:, None]
