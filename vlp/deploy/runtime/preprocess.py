"""From pictures to an artifact's pixels, by Pillow and numpy: transform.json holds the settings.

The pixels are those of the transform that was exported, bit by bit, unless its JPEGs are decoded at 1/2, 1/4 or 1/8 of their sides
(`jpeg_multiple`), which is up to five times as fast: everything that embeds pictures must then do the same, so the file says it.

    {"resizer": "eval", "image_size": [224, 224], "mode": "clip", "resize": null, "interpolation": "bicubic",
     "crop_offset": "round", "rgb": "last", "jpeg_multiple": 2, "orientation": "exif", "eight_bit": "scaled"}
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from vlp.data.images import Photo, decode, open_photo, parse_photo, reraise_as_image_error
from vlp.data.inputs import upright
from vlp.data.placement import jpeg_reduction
from vlp.data.resizing import EvalResizer, LetterboxResizer, Resizer
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

Picture = str | os.PathLike[str] | bytes | PIL.Image.Image
RESIZERS: dict[str, type[Resizer]] = {"eval": EvalResizer, "letterbox": LetterboxResizer}
RULES = {"orientation": "exif", "eight_bit": "scaled"}  # photos are turned upright, and 16-bit grey is scaled to 8 bits


@dataclass(frozen=True, kw_only=True)
class LoadedPictures:
    """frames: left, top, width and height of what the pixels show, in those of the upright photo.  sizes: its height and width."""

    pixels: UInt8[np.ndarray, "b 3 h w"]
    frames: Float[np.ndarray, "b 4"]
    sizes: list[tuple[int, int]]

    def __getitem__(self, rows: Sequence[int]) -> LoadedPictures:
        index = list(rows)
        sizes = [self.sizes[row] for row in index]
        return LoadedPictures(pixels=self.pixels[index], frames=self.frames[index], sizes=sizes)


@dataclass(frozen=True, kw_only=True)
class PicturePreprocessing:
    """jpeg_multiple: a JPEG, given as a path or as bytes, is decoded at 1/2, 1/4 or 1/8 of its sides as long as it is then still at
    least this many times as large as what it is resized to; None = in full. Pillow's images are used as they are."""

    resizer: Resizer
    jpeg_multiple: int | None = None

    def __post_init__(self) -> None:
        if self.jpeg_multiple is not None and self.jpeg_multiple < 1:
            raise UserError(f"jpeg_multiple={self.jpeg_multiple}: give a whole number of at least 1, or none")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return self.resizer.size

    def spec(self) -> dict[str, Any]:
        """The content of transform.json."""
        name = next(name for name, kind in RESIZERS.items() if type(self.resizer) is kind)
        return {"resizer": name, **self.resizer.settings(), "jpeg_multiple": self.jpeg_multiple, **RULES}

    def load(self, pictures: Sequence[Picture]) -> LoadedPictures:
        """Raises ImageError for a file that is no image, and UserError for what is no picture."""
        if not len(pictures):
            raise UserError("images must be a list with at least one entry")
        pixels = np.empty((len(pictures), 3, *self.size), dtype=np.uint8)
        frames, sizes = np.empty((len(pictures), 4)), []
        for row, picture in enumerate(pictures):
            image, full_size, factor = self._open(picture)
            with reraise_as_image_error(_name(picture)):  # a PNG's pixels may be damaged where its header is not
                resized = self.resizer.resize(image, full_size=full_size, factor=factor)
            pixels[row] = np.asarray(resized).transpose(2, 0, 1)
            frames[row] = self.resizer.place(*full_size).frame
            sizes.append(full_size[::-1])
        return LoadedPictures(pixels=pixels, frames=frames, sizes=sizes)

    def _open(self, picture: Picture) -> tuple[PIL.Image.Image, tuple[int, int], int]:
        """The upright image, the photo's width and height, and what they were divided by."""
        if not isinstance(picture, (str, os.PathLike, bytes)):
            image = upright(picture)
            return image, image.size, 1
        photo = parse_photo(picture, _name(picture)) if isinstance(picture, bytes) else open_photo(picture)
        factor = self._reduction(photo)
        image = decode(photo, reduced=factor)
        return image, photo.full_size, 1 if image.size == photo.full_size else factor

    def _reduction(self, photo: Photo) -> int:
        if self.jpeg_multiple is None or photo.format != "JPEG":
            return 1
        rows, columns = (self.jpeg_multiple * side for side in self.resizer.photo_size(*photo.full_size))
        factor = jpeg_reduction(*photo.full_size, (rows, columns))
        while photo.needs_rotation and any(side % factor for side in photo.full_size):
            factor //= 2  # its last pixels would be incomplete, and the rotation would move them to another side
        return factor


def _name(picture: Picture) -> str:
    return str(picture) if isinstance(picture, (str, os.PathLike)) else "the picture"


def read_preprocessing(file: Path) -> PicturePreprocessing:
    """Raises UserError for settings that this vlp does not have."""
    spec = read_json_object(file)
    fix = "write the artifact again with vlp export, or install the vlp that wrote it"
    kind = RESIZERS.get(str(spec.pop("resizer", None)))
    if kind is None:
        raise UserError(f"{file}: no resizer that this vlp knows ({', '.join(RESIZERS)}): {fix}")
    for name, value in RULES.items():
        if (other := spec.pop(name, None)) != value:
            raise UserError(f"{file}: {name}={other!r}, and this vlp knows {value!r} alone: {fix}")
    multiple = spec.pop("jpeg_multiple", None)
    try:
        return PicturePreprocessing(resizer=kind(**spec), jpeg_multiple=multiple)
    except (TypeError, UserError) as error:  # an unknown argument; a wrong value
        raise UserError(f"{file}: {error}; {fix}") from error
