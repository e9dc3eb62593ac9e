"""ViLT's image embedder: one linear map of patches, no layer above it (Kim et al., arXiv:2102.03334, §3.1; dandelin/ViLT
vilt/modules/vision_transformer.py `visual_embed`).

Images keep their shape: each has its own grid of complete patches, to which the square grid of position embeddings is
resized. The original infers padding from pixels that are exactly zero, so that one mid-grey pixel can hide a patch; here
`Image.size` says what is padding. States are in raster order; the original shuffles them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.layers import Dropout, Layout
from vlp.models.vision.normalize import Normalize
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError

Grid = tuple[int, int]


class ViltPatches(nn.Module):
    """image_size: side of the square whose grid the position embeddings are stored for, in pixels.
    max_patches: of an image with more, as many are drawn at random in training (ViLT's pre-training: 200).
    dropout: of the sum with the position embeddings.
    """

    def __init__(
        self,
        *,
        image_size: int = 384,
        patch_size: int = 32,
        width: int = 768,
        max_patches: int | None = None,
        dropout: float = 0.1,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if max_patches is not None and max_patches < 1:
            raise UserError(f"max_patches={max_patches}: keep at least one patch of each image, or null for all")
        self.width, self.image_size, self.patch_size = width, image_size, patch_size
        self.max_patches = max_patches
        self.normalize = Normalize(mean=mean, std=std)
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty((image_size // patch_size) ** 2 + 1, width))
        self.dropout = Dropout(dropout)
        for parameter in (self.class_token, self.positions, self.patches.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]

    def forward(self, image: Image) -> Tokens:
        """The class token, then each image's own patches; `pooled` is the class token. States of padding are zero."""
        if torch.compiler.is_compiling() and image.size is None and not self.training:
            return self._forward_equal_sizes(image)
        grids = self._patch_grids(image)
        pixels = self.normalize(image)
        patches_flat, position_embeddings = self._extract_patches(pixels, grids), self._position_embeddings(grids)
        counts = [rows * columns for rows, columns in grids]
        sampled = self._sample_patches(counts)
        if sampled is not None:
            counts = [len(own) for own in sampled]
            starts = accumulate((rows * columns for rows, columns in grids), initial=0)
            index = torch.cat([start + own for start, own in zip(starts, sampled, strict=False)]).to(
                patches_flat.device
            )
            patches_flat, position_embeddings = patches_flat[index], position_embeddings[index]
        x = F.linear(patches_flat, self.patches.weight.flatten(1), self.patches.bias) + position_embeddings
        layout = _build_layout(counts, x.device)
        first = repeat(self.class_token + self.positions[0], "d -> b 1 d", b=len(grids))
        states = self.dropout(torch.cat([first, layout.unpack(x)], dim=1))
        real = layout.attention_mask()
        mask = None if real is None else F.pad(real[:, 0, 0], (1, 0), value=True)
        grid = grids[0] if sampled is None and len(set(grids)) == 1 else None
        return Tokens(states=states, pooled=states[:, 0], mask=mask, grid=grid)

    def _forward_equal_sizes(self, image: Image) -> Tokens:
        """Of images of one size without padding: a graph without lists of grids, for any batch."""
        rows, columns = (side // self.patch_size for side in image.pixels.shape[-2:])
        patches = rearrange(
            self.normalize(image)[..., : rows * self.patch_size, : columns * self.patch_size],
            "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size,
        )  # fmt: skip
        x = F.linear(patches, self.patches.weight.flatten(1), self.patches.bias)
        x = x + self._position_embeddings([(rows, columns)])
        first = (self.class_token + self.positions[0]).expand(x.shape[0], 1, -1)
        states = torch.cat([first, x], dim=1)
        return Tokens(states=states, pooled=states[:, 0], grid=(rows, columns))

    def _patch_grids(self, image: Image) -> list[Grid]:
        """Rows and columns of complete patches of each image."""
        batch, _, height, width = image.pixels.shape
        sizes = [[height, width]] * batch if image.size is None else image.size.tolist()
        small = next((size for size in sizes if min(size) < self.patch_size), None)
        if small is not None:
            raise UserError(
                f"an image of {small[0]} x {small[1]} pixels has no complete patch of {self.patch_size}: "
                "raise the image_size of the transform"
            )
        if any(rows > height or columns > width for rows, columns in sizes):
            raise UserError(f"Image.size has images larger than their {height} x {width} pixels")
        return [(rows // self.patch_size, columns // self.patch_size) for rows, columns in sizes]

    def _extract_patches(self, pixels: Float[Tensor, "b c h w"], grids: Sequence[Grid]) -> Float[Tensor, "r k"]:
        """Each image's patches as rows of pixels, image after image."""
        side = self.patch_size
        if len(set(grids)) == 1:
            rows, columns = grids[0]
            part = pixels[..., : rows * side, : columns * side]
            return rearrange(part, "b c (h p) (w q) -> (b h w) (c p q)", p=side, q=side)
        parts = [own[:, : rows * side, : columns * side] for own, (rows, columns) in zip(pixels, grids, strict=True)]
        return torch.cat([rearrange(part, "c (h p) (w q) -> (h w) (c p q)", p=side, q=side) for part in parts])

    def _position_embeddings(self, grids: Sequence[Grid]) -> Float[Tensor, "r d"]:
        """The position embeddings of each image's patches, bilinearly resized with aligned corners."""
        side = math.isqrt(len(self.positions) - 1)
        stored = rearrange(self.positions[1:], "(h w) d -> 1 d h w", h=side)
        resized = {}
        for grid in dict.fromkeys(grids):
            fitted = (
                stored if grid == (side, side) else F.interpolate(stored, grid, mode="bilinear", align_corners=True)
            )
            resized[grid] = rearrange(fitted, "1 d h w -> (h w) d")
        return torch.cat([resized[grid] for grid in grids])

    def _sample_patches(self, counts: Sequence[int]) -> list[Int[Tensor, " _"]] | None:
        """Which patches of each image are sampled, in raster order; None = all."""
        if not self.training or self.max_patches is None or max(counts) <= self.max_patches:
            return None
        return [torch.randperm(count)[: self.max_patches].sort().values for count in counts]


def _build_layout(counts: Sequence[int], device: torch.device) -> Layout:
    """Rows of `counts` lengths, one after another, in a grid as long as the longest."""
    return Layout.from_mask((torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(device))
