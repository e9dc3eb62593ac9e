"""Segments as queries give them: logits of classes and of masks, complete or as factors.

Training compares masks at points, and only those of matched queries: with a query for each place of the raster it needs a
thirtieth of the masks, which factors give without computing the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vlp.models.dense.places import cell_centres
from vlp.models.precision import to_float32


@dataclass(frozen=True, kw_only=True)
class QueriedSegments:
    """classes: logits; the last column is "no object".  masks: logits on the map of pixels."""

    classes: Float[Tensor, "b q c"]
    masks: Float[Tensor, "b q h w"]

    def of_images(self) -> Iterator[ImageMasks]:
        # unbound at once: the gradient of one image's masks by its index is as large as those of all
        return (ImageMasks(masks) for masks in to_float32(self.masks).unbind())

    def nothing(self) -> Float[Tensor, ""]:
        """0 with a gradient, for a process without any segment."""
        return 0 * to_float32(self.masks).sum()


class ImageMasks:
    """Of one image."""

    def __init__(self, masks: Float[Tensor, "q h w"]) -> None:
        self._masks = masks

    def of(self, queries: Int[Tensor, " m"]) -> Float[Tensor, "m h w"]:
        return self._masks[queries]

    def at(self, points: Float[Tensor, "1 p 2"]) -> Float[Tensor, "q p"]:
        """Of all queries, without gradient.  points: x, y in [0, 1]."""
        masks = self._masks.detach()
        return read_points(masks, points.expand(len(masks), -1, -1))


@dataclass(frozen=True, kw_only=True)
class Discs:
    """Where the masks of queries of places begin: a disc whose logit falls from 4 in its middle by 4 for each radius.

    centre, radius: in cells of the raster.  grid: its rows and columns."""

    centre: Float[Tensor, "b n 2"]
    radius: Float[Tensor, "b n 1"]
    grid: tuple[int, int]

    def logits(
        self, centre: Float[Tensor, "n 2"], radius: Float[Tensor, "n 1"], points: Tensor
    ) -> Float[Tensor, "n p"]:
        """points: [p 2], x, y in [0, 1]."""
        rows, columns = self.grid
        x, y = (points * torch.tensor([columns, rows]).to(points)).unbind(-1)
        squared = (centre[:, :1] - x).square() + (centre[:, 1:] - y).square()
        return 4 * (1 - (squared + 1e-4).sqrt() / radius)  # the gradient of a root at 0 is infinite


@dataclass(frozen=True, kw_only=True)
class FactoredSegments:
    """classes: logits; the last column is "no object".  A mask is the product of `embeddings` and `pixels`; of the last queries
    it also has the logits of `discs`."""

    classes: Float[Tensor, "b q c"]
    embeddings: Float[Tensor, "b q d"]
    pixels: Float[Tensor, "b d h w"]
    discs: Discs

    @property
    def masks(self) -> Float[Tensor, "b q h w"]:
        every = torch.arange(self.classes.shape[1], device=self.classes.device)
        return torch.stack([image.of(every) for image in self.of_images()])

    def of_images(self) -> Iterator[FactoredMasks]:
        factors = (self.embeddings, self.pixels, self.discs.centre, self.discs.radius)
        for rows in zip(*(to_float32(x).unbind() for x in factors), strict=True):
            yield FactoredMasks(*rows, discs=self.discs)

    def nothing(self) -> Float[Tensor, ""]:
        """0 with a gradient, for a process without any segment."""
        factors = (self.embeddings, self.pixels, self.discs.centre, self.discs.radius)
        return 0 * torch.stack([to_float32(x).sum() for x in factors]).sum()


class FactoredMasks:
    """Of one image."""

    def __init__(
        self, embeddings: Float[Tensor, "q d"], pixels: Float[Tensor, "d h w"], centre: Float[Tensor, "n 2"],
        radius: Float[Tensor, "n 1"], *, discs: Discs,
    ) -> None:  # fmt: skip
        self._embeddings, self._pixels, self._centre, self._radius, self._discs = (
            embeddings,
            pixels,
            centre,
            radius,
            discs,
        )

    def of(self, queries: Int[Tensor, " m"]) -> Float[Tensor, "m h w"]:
        size = (self._pixels.shape[1], self._pixels.shape[2])
        logits = self._logits(queries, self._pixels.flatten(1), cell_centres(size, self._pixels))
        return logits.unflatten(1, size)

    @torch.no_grad()
    def at(self, points: Float[Tensor, "1 p 2"]) -> Float[Tensor, "q p"]:
        """Of all queries, without gradient.  points: x, y in [0, 1]."""
        pixels = read_points(self._pixels, points.expand(len(self._pixels), -1, -1))
        every = torch.arange(len(self._embeddings), device=pixels.device)
        return self._logits(every, pixels, points[0].to(pixels))

    def _logits(
        self, queries: Int[Tensor, " m"], pixels: Float[Tensor, "d p"], points: Float[Tensor, "p 2"]
    ) -> Float[Tensor, "m p"]:
        logits = self._embeddings[queries] @ pixels
        place = queries - (len(self._embeddings) - len(self._centre))  # below 0: a query without a disc
        has_disc = place >= 0
        disc = self._discs.logits(self._centre[place[has_disc]], self._radius[place[has_disc]], points)
        return logits.index_add(0, has_disc.nonzero()[:, 0], disc)


def read_points(maps: Float[Tensor, "n _ _"], points: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p"]:
    """Bilinearly.  points: x, y in [0, 1] of the map."""
    grid = 2 * points[:, None].to(maps) - 1
    return F.grid_sample(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0, 0]
