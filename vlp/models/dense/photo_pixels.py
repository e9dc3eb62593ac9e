"""Maps over an image, read at the pixels of the photo that it shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def read_at_photo(
    maps: Float[Tensor, "c _ _"],
    *,
    frame: Float[Tensor, " 4"],
    photo_size: tuple[int, int],
    extent: Float[Tensor, " 2"] | None = None,
) -> Float[Tensor, "c {photo_size[0]} {photo_size[1]}"]:
    """Bilinearly, at the centre of each pixel of the photo; where the image shows the photo from edge to edge, this is
    `F.interpolate` without aligned corners. Pixels that the image leaves out get the values of its nearest edge.

    frame: of the image, see `Batch.frame`.  photo_size: height and width in pixels.  extent: the image's width and height as shares
    of the maps, where it is padded; None = 1, 1.
    """
    left, top, width, height = frame.double().tolist()
    shares = (1.0, 1.0) if extent is None else (float(extent[0]), float(extent[1]))
    # in double, as photos have thousands of pixels
    x = _grid((torch.arange(photo_size[1], dtype=torch.float64) + 0.5 - left) / width, maps.shape[2], shares[0])
    y = _grid((torch.arange(photo_size[0], dtype=torch.float64) + 0.5 - top) / height, maps.shape[1], shares[1])
    grid = torch.stack([x.expand(*photo_size), y[:, None].expand(*photo_size)], -1).to(maps)
    return F.grid_sample(maps[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


def _grid(position: Float[Tensor, " n"], cells: int, share: float) -> Float[Tensor, " n"]:
    """Positions in [0, 1] of an image as coordinates of `grid_sample`, never between the image's last cell and its padding."""
    cell = (position * share * cells - 0.5).clamp(0, max(share * cells - 1, 0))
    return (2 * cell + 1) / cells - 1
