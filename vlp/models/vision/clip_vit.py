"""The vision transformer of CLIP, SigLIP, ALBEF and BLIP, with equal numbers (Dosovitskiy et al., arXiv:2010.11929; Radford et
al., arXiv:2103.00020, §2.4, openai/CLIP clip/model.py; salesforce/ALBEF models/vit.py).

The final map into the joint space (`visual.proj`) is the projection's, not the tower's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import Layout, build_pre_norm_blocks, num_heads
from vlp.models.tokens import check_pool
from vlp.models.vision.normalize import CLIP_MEAN, CLIP_STD, Normalize
from vlp.models.vision.positions import Grid, patch_grid, resize_positions
from vlp.models.vision.query_pool import QueryPool
from vlp.models.vision.tome import Tome
from vlp.structures import Image, Tokens, height_and_width
from vlp.system.errors import UserError


class ClipVit(nn.Module):
    """image_size: pixels, one side or [height, width], at which the positions are learned. Images of other sizes and shapes are
    taken too: the positions are resized to their grid of complete patches (`vlp.models.vision.positions`).
    pool: 'class' = the class token (CLIP), 'average' = the mean over patches, 'attention' = `QueryPool` (SigLIP, CoCa).
    class_token: SigLIP has none.  pre_norm: CLIP's norm before the first block.
    norm_before_pool: the last norm on every token rather than on the pooled one (equal for 'class'); 'attention' pools normed
    tokens (SigLIP), or its output is normed (False: CoCa).
    patch_bias: of the map from patches to tokens.  norm_states: the returned states pass the last norm too (ALBEF, BLIP).
    merging: merges tokens in every block, a part with the methods of `Tome`; None = none is merged. What is merged has no raster:
    the states' `grid` is None, and heads that need one refuse the tower.
    pool_queries, pool_heads, pool_width, pool_mlp_ratio: of 'attention'; heads and width None = those of the tower. Several
    queries: their outputs are the states, and the first is the pooled feature (CoCa).
    """

    prunes = True  # `pooled_only` saves work

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        patch_size: int,
        width: int,
        layers: int,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        norm_eps: float = 1e-5,
        pool: str = "class",
        class_token: bool = True,
        pre_norm: bool = True,
        norm_before_pool: bool = False,
        patch_bias: bool = False,
        norm_states: bool = False,
        pool_queries: int = 1,
        pool_heads: int | None = None,
        pool_width: int | None = None,
        pool_mlp_ratio: float | None = None,
        merging: Tome | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        check_pool(pool, ("class", "average", "attention"))
        if pool == "class" and not class_token:
            raise UserError("model.vision.pool=class needs a class token: set class_token=true, or another pool")
        self.image_size, self.patch_size, self.size = image_size, patch_size, height_and_width(image_size)
        self.grid = self.size[0] // patch_size, self.size[1] // patch_size
        self.positions_size = image_size
        self.pool, self.norm_before_pool, self.norm_states = pool, norm_before_pool, norm_states
        self.width = pool_width or width if pool == "attention" else width
        self.states_width = self.width if pool_queries > 1 else width
        self.normalize = Normalize(mean=mean, std=std)
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=patch_bias)
        self.class_token = nn.Parameter(width**-0.5 * torch.randn(width)) if class_token else None
        self.positions = nn.Parameter(width**-0.5 * torch.randn(self.grid[0] * self.grid[1] + class_token, width))
        self.norm_pre = nn.LayerNorm(width, eps=norm_eps) if pre_norm else nn.Identity()
        heads = num_heads(width, heads, "vision_heads")
        self.blocks = build_pre_norm_blocks(
            layers=layers, width=width, heads=heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.merging = merging
        self.norm_post = nn.LayerNorm(width if norm_before_pool else self.width, eps=norm_eps)
        if pool == "attention":
            self.attention_pool = QueryPool(
                width=self.width,
                states_width=width,
                queries=pool_queries,
                heads=pool_heads or heads,
                norm_inputs=not norm_before_pool,
                mlp_ratio=pool_mlp_ratio,
                activation=activation,
                norm_eps=norm_eps,
            )

    def forward(self, image: Image, pooled_only: bool = False) -> Tokens:
        """pooled_only: the last block works for the class token alone, and that is the one state returned."""
        pixels = self.normalize(image)
        grid = patch_grid(pixels, self.patch_size)
        pixels = pixels[..., : grid[0] * self.patch_size, : grid[1] * self.patch_size]  # as a strided convolution does
        # a convolution of patches that do not overlap is a linear map of each, which the CPU does in two thirds of the time
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)
        x = F.linear(patches, self.patches.weight.flatten(1), self.patches.bias)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], 1, -1), x], dim=1)
        x = x + resize_positions(self.positions, self.grid, grid)
        layout = Layout(*x.shape[:2])
        x = self.norm_pre(x).flatten(0, 1)
        pooled_only = pooled_only and self.pool == "class"
        counts = self._merged_counts(grid[0] * grid[1])
        if any(counts):
            return self._forward_merging(layout.unpack(x), counts, pooled_only)
        for block in self.blocks[: -1 if pooled_only else None]:
            x = block(x, layout)
        if pooled_only:
            keep = layout.length * torch.arange(layout.batch, device=x.device)
            states = self.blocks[-1](x, layout, keep=keep)[:, None]
            return Tokens(states=states, pooled=self.norm_post(states[:, 0]))
        return self._pool_states(layout.unpack(x), grid)

    def _merged_counts(self, patches: int) -> list[int]:
        """Tokens that each block merges away; empty without merging."""
        if self.merging is None:
            return []
        return self.merging.schedule(layers=len(self.blocks), patches=patches)

    def _forward_merging(self, x: Float[Tensor, "b n d"], counts: list[int], pooled_only: bool) -> Tokens:
        assert self.merging is not None
        protected, size = int(self.class_token is not None), torch.ones(x.shape[:2], device=x.device)
        blocks: Any = self.blocks
        for block, count in list(zip(blocks, counts, strict=True))[: -1 if pooled_only else None]:
            x, size = self.merging.run_block(block, x, size, count, protected)
        if pooled_only:
            states = self.merging.first_states(blocks[-1], x, size)[:, None]
            return Tokens(states=states, pooled=self.norm_post(states[:, 0]))
        return self._pool_states(x, None, size)

    def _pool_states(
        self, states: Float[Tensor, "b n d"], grid: Grid | None, size: Float[Tensor, "b n"] | None = None
    ) -> Tokens:
        """Of the last block's states.  size: patches that each stands for; None = one each."""
        first = int(self.class_token is not None)
        if self.pool == "class":
            pooled = self.norm_post(states[:, 0])
        elif self.pool == "average" and self.norm_before_pool:
            pooled = _mean(self.norm_post(states), size, first)
        elif self.pool == "average":
            pooled = self.norm_post(_mean(states, size, first))
        else:
            before = self.norm_before_pool
            bias = None if size is None or self.merging is None else self.merging.bias(size, states.dtype)
            pooling = self.attention_pool(self.norm_post(states) if before else states, bias)
            queried = pooling if before else self.norm_post(pooling)
            pooled = queried[:, 0]
            if queried.shape[1] > 1:
                return Tokens(states=queried, pooled=pooled)
        return Tokens(states=self.norm_post(states) if self.norm_states else states, pooled=pooled, grid=grid)


def _mean(states: Float[Tensor, "b n d"], size: Float[Tensor, "b n"] | None, first: int) -> Float[Tensor, "b d"]:
    """Over all patches, from the state `first` on."""
    if size is None:
        return states[:, first:].mean(1)
    weight = size[:, first:, None].to(states.dtype)
    return (states[:, first:] * weight).sum(1) / weight.sum(1)
