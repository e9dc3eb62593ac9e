"""What people hand to verbs: lists, and pictures as paths, bytes of files or Pillow's images. Torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps

from vlp.data.images import exif_orientation
from vlp.system.errors import UserError


def upright(image: Any) -> PIL.Image.Image:
    """Of Pillow's image, as a file is opened.  Raises UserError for anything else, and for an image without pixels."""
    if not isinstance(image, PIL.Image.Image):
        raise UserError(
            f"images are paths or Pillow's, not {type(image).__name__}: PIL.Image.fromarray makes one of an array"
        )
    if not image.width or not image.height:
        raise UserError(f"an image of {image.width} x {image.height} pixels")
    return PIL.ImageOps.exif_transpose(image) if exif_orientation(image) != 1 else image


def require_list(inputs: Any, name: str) -> Sequence[Any]:
    """name: for the UserError, for what is no list or empty."""
    several = hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")  # a column of a table too
    if isinstance(inputs, (str, bytes, Path, PIL.Image.Image)) or not several or len(inputs) == 0:
        raise UserError(f"{name} must be a list with at least one entry")
    return inputs


def require_pairs(images: Any, texts: Any, name: str) -> None:
    """name: of the texts.  Raises UserError unless there is one for each image."""
    if len(require_list(images, "images")) != len(require_list(texts, name)):
        raise UserError(f"{len(images)} images and {len(texts)} {name}: give one for each image")
