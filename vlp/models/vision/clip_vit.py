"""The vision transformer of CLIP, SigLIP, ALBEF and BLIP, with equal numbers (Dosovitskiy et al., arXiv:2010.11929; Radford et
al., arXiv:2103.00020, §2.4, openai/CLIP clip/model.py; salesforce/ALBEF models/vit.py).

The final map into the joint space (`visual.proj`) is the projection's, not the tower's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import Layout, build_pre_norm_blocks, num_heads
from vlp.models.tokens import check_pool
from vlp.models.vision.normalize import CLIP_MEAN, CLIP_STD, Normalize
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class ClipVit(nn.Module):
    """pool: 'class' = the class token (CLIP), 'average' = the mean over patches.  pre_norm: CLIP's norm before the
    first block.  norm_before_pool: the last norm on every token rather than on the pooled one (equal for 'class').
    patch_bias: of the map from patches to tokens.  norm_states: the returned states pass the last norm too (ALBEF, BLIP).
    """

    prunes = True  # `pooled_only` saves work

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
        patch_bias: bool = False,
        norm_states: bool = False,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        check_pool(pool, ("class", "average"))
        self.width, self.image_size, self.patch_size = width, image_size, patch_size
        self.pool, self.norm_before_pool, self.norm_states = pool, norm_before_pool, norm_states
        self.normalize = Normalize(mean=mean, std=std)
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=patch_bias)
        self.class_token = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn((image_size // patch_size) ** 2 + 1, width))
        self.norm_pre = nn.LayerNorm(width, eps=norm_eps) if pre_norm else nn.Identity()
        self.blocks = build_pre_norm_blocks(
            layers=layers,
            width=width,
            heads=num_heads(width, heads, "vision_heads"),
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm_eps=norm_eps,
        )
        self.norm_post = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, image: Image, pooled_only: bool = False) -> Tokens:
        """pooled_only: the last block works for the class token alone, and that is the one state returned."""
        pixels = self.normalize(image)
        size = tuple(pixels.shape[-2:])
        if size != (self.image_size, self.image_size):
            raise UserError(f"images of {size} pixels for a tower of {self.image_size}: give the transform this size")
        side = self.image_size // self.patch_size
        pixels = pixels[..., : side * self.patch_size, : side * self.patch_size]  # as a strided convolution does
        # a convolution of patches that do not overlap is a linear map of each, which the CPU does in two thirds of the time
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        tokens = F.linear(patches, self.patches.weight.flatten(1), self.patches.bias)
        x = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1) + self.positions
        layout = Layout(*x.shape[:2])
        x = self.norm_pre(x).flatten(0, 1)
        pooled_only = pooled_only and self.pool == "class"
        for block in self.blocks[: -1 if pooled_only else None]:
            x = block(x, layout)
        if pooled_only:
            states = self.blocks[-1](x, layout, keep=layout.length * torch.arange(layout.batch, device=x.device))[
                :, None
            ]
            return Tokens(states=states, pooled=self._pool_states(states))
        states = layout.unpack(x)
        pooled = self._pool_states(states)
        return Tokens(states=self.norm_post(states) if self.norm_states else states, pooled=pooled, grid=(side, side))

    def _pool_states(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        if self.pool == "class":
            return self.norm_post(x[:, 0])
        return self.norm_post(x)[:, 1:].mean(1) if self.norm_before_pool else self.norm_post(x[:, 1:].mean(1))
