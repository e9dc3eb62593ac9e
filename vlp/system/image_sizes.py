"""Sizes of images as configs give them."""

from __future__ import annotations

from collections.abc import Sequence

from vlp.system.errors import UserError


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Of an `image_size` as configs give it: the side of a square, or [height, width].  Raises UserError."""
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise UserError(f"image_size={image_size}: give pixels, one number or [height, width]")
    return sides
