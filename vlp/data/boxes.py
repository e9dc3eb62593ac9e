"""Boxes of annotations as corners: left, top, right, bottom in pixels of the stored photo, all within it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from vlp.data.issues import DataError

Corners = tuple[float, float, float, float]
Size = tuple[float, float]  # width, height

NOT_NUMBERS, NO_AREA, OUTSIDE = "box is not four numbers", "box of no area", "box outside the image"
BOX_FAULTS = (NOT_NUMBERS, NO_AREA, OUTSIDE)


def corners(left: object, top: object, width: object, height: object) -> Corners:
    """DataError: a box that is not four finite numbers, or has no area."""
    box = (left, top, width, height)
    x, y, w, h = (_number(edge) for edge in box)
    if not math.isfinite(x + y + w + h):
        raise DataError(NOT_NUMBERS, f"{NOT_NUMBERS}: {str(box)[:80]}")
    if w <= 0 or h <= 0:
        raise DataError(NO_AREA, f"{NO_AREA}: {box}")
    return x, y, x + w, y + h


def cut(box: Corners, size: Size) -> Corners:
    """The part of a box that is within a photo. DataError where nothing is."""
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], size[0]), min(box[3], size[1])
    if left >= right or top >= bottom:
        raise DataError(OUTSIDE, f"{OUTSIDE} of {size[0]:g} × {size[1]:g} pixels: {box}")
    return left, top, right, bottom


def around(boxes: Iterable[Corners]) -> Corners:
    """The smallest box that holds them all."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def looks_like_corners(box: Corners, size: Size) -> bool:
    """Whether a box that was told as left, top, width and height leads out of the photo, and would not as corners."""
    left, top, right, bottom = box
    beyond = right > size[0] + 1 or bottom > size[1] + 1  # official boxes are rounded
    return beyond and left < right - left <= size[0] + 1 and top < bottom - top <= size[1] + 1


def photo_size(record: dict[str, Any]) -> Size | None:
    """Width and height of an image's record, where they are told."""
    width, height = _number(record.get("width")), _number(record.get("height"))
    return (width, height) if width > 0 and height > 0 else None


def _number(value: object) -> float:
    """Not a number where it is none, or one that no photo has."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e9 else math.nan
