"""CLIP's vision transformer, to the number (Radford et al., arXiv:2103.00020, §2.4; openai/CLIP clip/model.py).

The final map into the joint space (`visual.proj`) is the projection's, not the tower's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import attention_heads, blocks
from vlp.models.vision.normalize import CLIP_MEAN, CLIP_STD, Normalize
from vlp.structures import Image, Tokens


class ClipVit(nn.Module):
    """pool: 'class' = the class token (CLIP), 'average' = the mean over patches.  pre_norm: CLIP's norm before the
    first block.  norm_before_pool: the last norm on every token rather than on the pooled one (equal for 'class').
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        norm_eps: float = 1e-5,
        pool: str = "class",
        pre_norm: bool = True,
        norm_before_pool: bool = False,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        if pool not in ("class", "average"):
            raise ValueError(f"unknown pool {pool!r}: choose class or average")
        self.width, self.image_size, self.patch_size = width, image_size, patch_size
        self.pool, self.norm_before_pool = pool, norm_before_pool
        self.normalize = Normalize(mean=mean, std=std)
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_token = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn((image_size // patch_size) ** 2 + 1, width))
        self.norm_pre = nn.LayerNorm(width, eps=norm_eps) if pre_norm else nn.Identity()
        self.blocks = blocks(
            layers=layers,
            width=width,
            heads=attention_heads(width, heads, "vision_heads"),
            mlp_ratio=mlp_ratio,
            activation_name=activation,
            norm_eps=norm_eps,
        )
        self.norm_post = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, image: Image) -> Tokens:
        pixels = self.normalize(image)
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images of {tuple(pixels.shape[-2:])} pixels for a tower of {self.image_size}: set transform.size"
            )
        patches = self.patches(pixels)
        tokens = rearrange(patches, "b d h w -> b (h w) d")
        x = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1) + self.positions
        x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return Tokens(states=x, pooled=self._pooled(x), grid=(patches.shape[2], patches.shape[3]))

    def _pooled(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        if self.pool == "class":
            return self.norm_post(x[:, 0])
        return self.norm_post(x)[:, 1:].mean(1) if self.norm_before_pool else self.norm_post(x[:, 1:].mean(1))


def resize_positions(positions: Float[Tensor, "n d"], length: int) -> Float[Tensor, "m d"]:
    """Position embeddings of one extra token and a square grid, for another square grid, as open_clip resizes them."""
    extra, grid = positions[:1], positions[1:]
    if length == len(positions):
        return positions
    grid = rearrange(grid.float(), "(h w) d -> 1 d h w", h=math.isqrt(len(grid)))
    side = math.isqrt(length - 1)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([extra, rearrange(grid, "1 d h w -> (h w) d").to(extra.dtype)])
