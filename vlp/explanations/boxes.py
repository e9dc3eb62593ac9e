"""From heat on an image to a box: the candidate that gathers most of it, or the region around its maximum.

A candidate's score is the sum of the heat in it divided by a power of its area (ALBEF, arXiv:2107.07651; salesforce/ALBEF
dataset/utils.py `grounding_eval`: ½). With power 0 the largest box would win, with 1 the smallest. There the heat is enlarged to
the photo bicubically and summed over whole pixels; here a pixel that a box cuts counts by the share that is inside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def enlarge(heat: Float[Tensor, "b rows columns"], size: tuple[int, int]) -> Float[Tensor, "b h w"]:
    """Bicubically to height and width in pixels, in at least float32."""
    values = heat.to(torch.promote_types(heat.dtype, torch.float32))
    return F.interpolate(values[:, None], size=size, mode="bicubic", align_corners=False)[:, 0]


def heat_in_boxes(
    heat: Float[Tensor, "h w"], boxes: Float[Tensor, "m 4"], *, power: float = 0.5
) -> Float[Tensor, " m"]:
    """Σ heat / area^power of each box, in pixels, computed in float64.  boxes: left, top, right, bottom in [0, 1] of the heat;
    a box without area scores 0."""
    height, width = heat.shape
    sums = F.pad(heat.double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # [i, j]: of the first i rows and j columns
    corners = boxes.double().clamp(0, 1) * boxes.new_tensor([width, height, width, height]).double()
    left, top, right, bottom = corners.unbind(1)
    total = _at(sums, bottom, right) - _at(sums, top, right) - _at(sums, bottom, left) + _at(sums, top, left)
    area = (right - left) * (bottom - top)
    return torch.where(area > 0, total / area.clamp(min=1e-12) ** power, 0.0)


def _at(sums: Float[Tensor, "_ _"], row: Float[Tensor, " m"], column: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Between its points a sum over whole pixels is bilinear."""
    i, j = (row.long().clamp(max=sums.shape[0] - 2), column.long().clamp(max=sums.shape[1] - 2))
    y, x = row - i, column - j
    above = sums[i, j] * (1 - x) + sums[i, j + 1] * x
    below = sums[i + 1, j] * (1 - x) + sums[i + 1, j + 1] * x
    return above * (1 - y) + below * y


def box_around_peak(heat: Float[Tensor, "rows columns"], *, threshold: float = 0.5) -> Float[Tensor, " 4"]:
    """Around the connected cells (of 8 neighbours) of at least `threshold` times the maximum that contain it; left, top, right,
    bottom in [0, 1]. Without any heat, the entire image."""
    peak = heat.max()
    if not bool(peak > 0):
        return heat.new_tensor([0.0, 0.0, 1.0, 1.0])
    warm = heat >= threshold * peak
    region = torch.zeros_like(warm)
    region.view(-1)[heat.argmax()] = True
    while True:
        grown = (F.max_pool2d(region[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0) & warm
        if torch.equal(grown, region):
            break
        region = grown
    rows, columns = region.any(1).nonzero()[:, 0], region.any(0).nonzero()[:, 0]
    edges = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).to(heat)
    return edges / heat.new_tensor([heat.shape[1], heat.shape[0]] * 2)
