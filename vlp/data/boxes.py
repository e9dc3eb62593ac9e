"""Boxes of annotations as corners: left, top, right, bottom in pixels of the stored photo, inside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vlp.data.issues import DataError

Corners = tuple[float, float, float, float]
Size = tuple[float, float]  # width, height

NOT_NUMBERS, NO_AREA, OUTSIDE = "box is not four numbers", "box of no area", "box outside the image"
BOX_FAULTS = (NOT_NUMBERS, NO_AREA, OUTSIDE)


def box_corners(left: object, top: object, width: object, height: object) -> Corners:
    """Left, top, right and bottom.  Raises DataError if the box is not four finite numbers or has no area."""
    box = (left, top, width, height)
    x, y, w, h = (_number_or_nan(edge) for edge in box)
    if not math.isfinite(x + y + w + h):
        raise DataError(NOT_NUMBERS, f"{NOT_NUMBERS}: {str(box)[:80]}")
    if w <= 0 or h <= 0:
        raise DataError(NO_AREA, f"{NO_AREA}: {box}")
    return x, y, x + w, y + h


def clip_box(box: Corners, size: Size) -> Corners:
    """The part of a box inside a photo of this size.  Raises DataError if there is none."""
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        raise DataError(OUTSIDE, f"{OUTSIDE} of {size[0]:g} × {size[1]:g} pixels: {box}")
    return left, top, right, bottom


def enclosing_box(boxes: Iterable[Corners]) -> Corners:
    """The smallest box that contains all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def looks_like_corners(box: Corners, size: Size) -> bool:
    """Whether a box that was read as left, top, width and height exceeds the photo, and would not if read as corners."""
    left, top, right, bottom = box
    exceeds = right > size[0] + 1 or bottom > size[1] + 1  # official boxes are rounded
    return exceeds and left < right - left <= size[0] + 1 and top < bottom - top <= size[1] + 1


def photo_size(record: dict[str, Any]) -> Size | None:
    """Width and height of an image's record; None if it has none."""
    width, height = _number_or_nan(record.get("width")), _number_or_nan(record.get("height"))
    return (width, height) if width > 0 and height > 0 else None


def _number_or_nan(value: object) -> float:
    """NaN for anything but a number, and for numbers too large for a photo."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e9 else math.nan
