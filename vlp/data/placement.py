"""Which part of a photo an image shows and at which size, and the resizing by Pillow. Torch is not imported: evaluation and the
running of artifacts have this in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import PIL.Image

from vlp.system.errors import UserError

P = TypeVar("P", bound="Placement")
BICUBIC = PIL.Image.Resampling.BICUBIC
PLACES = {"top_left": 0.0, "centre": 0.5}  # of the free pixels, the share before the photo
RESAMPLING = {kind.name.lower(): kind for kind in PIL.Image.Resampling}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """left, top, width, height: pixels of the upright photo, beyond which they may reach.  size: height and width of the image
    made of them."""

    left: int | float
    top: int | float
    width: int | float
    height: int | float
    size: tuple[int, int]
    mirrored: bool = False

    @classmethod
    def of_placed_photo(
        cls: type[P],
        width: int,
        height: int,
        *,
        resized: tuple[int, int],
        offset: tuple[int, int],
        size: tuple[int, int],
        mirrored: bool = False,
    ) -> P:
        """width, height: of the photo.  resized: its height and width in the image, offset: of its top and left there; size: of
        the image. Edges of the photo lie between pixels of the image."""
        down, across = height / resized[0], width / resized[1]  # pixels of the photo for one of the image
        left, top = -offset[1] * across, -offset[0] * down
        return cls(left=left, top=top, width=size[1] * across, height=size[0] * down, size=size, mirrored=mirrored)

    @property
    def is_pixel_aligned(self) -> bool:
        return all(float(value).is_integer() for value in (self.left, self.top, self.width, self.height))

    def visible_part(self: P, width: int | float, height: int | float) -> tuple[P, int, int] | None:
        """Of a view that may reach beyond a photo of this size: the part inside it, not mirrored, and the pixels of the view
        at its left and top. Edges of the photo are taken to lie between two pixels of the view; None = nothing is visible."""
        left, right = (_pixel(edge - self.left, self.width, self.size[1]) for edge in (0, width))
        top, bottom = (_pixel(edge - self.top, self.height, self.size[0]) for edge in (0, height))
        if left >= right or top >= bottom:
            return None
        x0, y0 = max(self.left, 0), max(self.top, 0)
        x1, y1 = min(self.left + self.width, width), min(self.top + self.height, height)
        size = bottom - top, right - left
        part = replace(self, left=x0, top=y0, width=x1 - x0, height=y1 - y0, size=size, mirrored=False)
        return part, left, top

    def downscaled(self: P, factor: int) -> P:
        """The same view of a photo whose sides were divided by `factor`."""
        return replace(
            self, left=self.left / factor, top=self.top / factor, width=self.width / factor, height=self.height / factor
        )

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of what the image shows; a mirrored view begins at its right edge, and its width is
        negative."""
        left, width = (self.left + self.width, -self.width) if self.mirrored else (self.left, self.width)
        return float(left), float(self.top), float(width), float(self.height)


def _pixel(distance: int | float, side: int | float, count: int) -> int:
    """The edge between two of `count` pixels that is nearest to a distance from the first, where all are `side` long."""
    return min(max(round(distance * count / side), 0), count)


def jpeg_reduction(width: int | float, height: int | float, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which width and height can be divided and still be at least `size` (height, width)."""
    return next((factor for factor in (8, 4, 2) if min(width / size[1], height / size[0]) >= factor), 1)


def resize_padded(
    image: PIL.Image.Image,
    view: Placement,
    *,
    fill: Sequence[int],
    resample: PIL.Image.Resampling = BICUBIC,
    photo_size: tuple[int | float, int | float] | None = None,
) -> PIL.Image.Image:
    """As `resize_view`, of a view that may reach beyond the image: there the pixels have the colour `fill`.

    photo_size: width and height of the image's photo, where its last pixels are not complete; None = the image's."""
    canvas = PIL.Image.new("RGB", view.size[::-1], tuple(fill))
    if (found := view.visible_part(*(photo_size or image.size))) is not None:
        part, left, top = found
        canvas.paste(resize_view(image, part, resample), (left, top))
    return canvas.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else canvas


def resize_view(image: PIL.Image.Image, view: Placement, resample: PIL.Image.Resampling = BICUBIC) -> PIL.Image.Image:
    """The view of a decoded RGB image, by Pillow."""
    box = (
        view.left, view.top, min(view.left + view.width, image.width), min(view.top + view.height, image.height)
    )  # fmt: skip
    resized = image.resize((view.size[1], view.size[0]), resample, box=box)
    return resized.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else resized


def fitted_size(width: int, height: int, size: tuple[int, int], *, scale: float = 1.0) -> tuple[int, int]:
    """Height and width, at least a pixel, of a photo whose longer side (relative to the image's) is `scale` of it."""
    factor = scale * min(size[0] / height, size[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def check_colour(fill: Sequence[int]) -> tuple[int, int, int]:
    """Raises UserError unless it is red, green and blue from 0 to 255."""
    if len(fill) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in fill):
        raise UserError(f"fill={list(fill)}: give red, green and blue, each from 0 to 255")
    return fill[0], fill[1], fill[2]


def choose(name: str, value: str, choices: Iterable[str]) -> str:
    if value not in choices:
        raise UserError(f"unknown {name} {value!r} of a transform: choose {' or '.join(choices)}")
    return value
