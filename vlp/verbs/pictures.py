"""The pictures that verbs take: paths or Pillow's images, upright, and which part of a photo a transform shows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps

from vlp.data.images import exif_orientation, open_image
from vlp.data.transforms import Transform
from vlp.system.errors import UserError

Picture = str | Path | PIL.Image.Image


def open_picture(image: Picture) -> PIL.Image.Image:
    """Upright, as a file is."""
    if isinstance(image, (str, Path)):
        return open_image(image)
    if not isinstance(image, PIL.Image.Image):
        raise UserError(
            f"images are paths or Pillow's, not {type(image).__name__}: PIL.Image.fromarray makes one of an array"
        )
    if not image.width or not image.height:
        raise UserError(f"an image of {image.width} x {image.height} pixels")
    return PIL.ImageOps.exif_transpose(image) if exif_orientation(image) != 1 else image


def photo_frame(transform: Any, photo: PIL.Image.Image) -> tuple[float, float, float, float] | None:
    """What the transformed image shows, as `Batch.frame` has it; None for a transform that does not say (any function)."""
    if not isinstance(transform, Transform):
        return None
    return transform.choose_view(photo.width, photo.height, random.Random(0)).frame


def require_list(inputs: Sequence[Any], name: str) -> Sequence[Any]:
    several = hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")  # a column of a table too
    if isinstance(inputs, (str, Path, PIL.Image.Image)) or not several or len(inputs) == 0:
        raise UserError(f"{name} must be a list with at least one entry")
    return inputs
