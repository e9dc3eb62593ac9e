"""Learned position embeddings of a grid of patches, for another grid than they were learned at; and which grid an image has.

The rule is transformers' `interpolate_pos_encoding`, which is also that of ALBEF and BLIP: bicubic (a = -0.75), pixel centres
aligned, no smoothing when the grid shrinks. It is linear in the embeddings and separable, so it is two small matrix products,
whose gradient is deterministic on every device (that of the library's interpolation is not on a GPU).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.structures import height_and_width
from vlp.system import ranks
from vlp.system.errors import UserError

Grid = tuple[int, int]
MAX_EXTRA_TOKENS = 16  # class, distillation and register tokens before a raster


def resize_positions(positions: Float[Tensor, "n d"], before: Grid, after: Grid) -> Float[Tensor, "m d"]:
    """positions: those of extra tokens (the class token), if any, then those of `before`, rows · columns in raster order.

    The extra ones stay; equal grids return the argument itself.
    """
    if before == after:
        return positions
    cells = before[0] * before[1]
    extra, grid = positions[: len(positions) - cells], positions[len(positions) - cells :]
    dtype = positions.dtype if positions.dtype == torch.float64 else torch.float32
    with torch.autocast(positions.device.type, enabled=False):
        rows, columns = (
            _bicubic_weights(old, new, dtype, positions.device) for old, new in zip(before, after, strict=True)
        )
        resized = torch.einsum("ih,hwd->iwd", rows, grid.to(dtype).unflatten(0, before))
        resized = torch.einsum("jw,iwd->ijd", columns, resized).flatten(0, 1)
    return torch.cat([extra, resized.to(positions.dtype)])


@torch.no_grad()
def _bicubic_weights(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "m n"]:
    """Of each old position for each new one, found by resizing the columns of the identity."""
    identity = torch.eye(before, dtype=dtype, device=device)[None, None]
    return F.interpolate(identity, size=(after, before), mode="bicubic", align_corners=False)[0, 0]


def patch_grid(pixels: Tensor, patch_size: int) -> Grid:
    """Rows and columns of the complete patches of images [b c h w]; what is left at the right and at the bottom is not seen.
    Raises UserError for images without any."""
    height, width = pixels.shape[-2:]
    if min(height, width) < patch_size:
        raise UserError(
            f"images of {height} x {width} pixels have no complete patch of {patch_size}: raise the image_size of the transform"
        )
    return height // patch_size, width // patch_size


def token_grid(count: int, size: tuple[int, int], patch_size: int) -> Grid | None:
    """The raster at the end of `count` tokens of images of `size` (height, width), if there is one.

    Either all complete patches, after at most 16 other tokens such as a class token; or exactly the patches (incomplete ones
    padded), merged two by two as often as needed (Swin).
    """
    rows, columns = size[0] // patch_size, size[1] // patch_size
    if 0 <= count - rows * columns <= MAX_EXTRA_TOKENS:
        return rows, columns
    rows, columns = -(-size[0] // patch_size), -(-size[1] // patch_size)
    while rows * columns > count:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return (rows, columns) if rows * columns == count else None


def warn_of_resized_positions(tower: Any, size: tuple[int, int]) -> bool:
    """One warning, on rank 0, where images are not of the size that the tower's positions were learned at; whether it was due.

    size: (height, width).  A tower whose positions are resized has `positions_size`, an image_size, or None for none.
    """
    learned = getattr(tower, "positions_size", None)
    if learned is None or height_and_width(learned) == size:
        return False
    if ranks.rank() == 0:
        height, width = height_and_width(learned)
        warnings.warn(
            f"images of {size[0]} x {size[1]} pixels for a tower whose positions were learned at {height} x {width}: the positions "
            "are resized to the images (no further sizes are reported). If that is not meant, give the transform the tower's size: "
            f"transform.train.image_size, transform.eval.image_size = {learned}",
            stacklevel=4,
        )
    return True
