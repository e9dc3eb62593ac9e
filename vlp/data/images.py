"""From a file to a decoded image: the header is checked before anything is decoded (Pillow).

Colour: transparency is dropped, not blended, as `convert("RGB")` in OpenAI's preprocessing does, so a transparent
pixel shows whatever colour the file stores under it. 16-bit grey is scaled to 8 bits, where Pillow would clip it.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import PIL.Image
import PIL.ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 80_000_000  # below Pillow's own warning
MAX_BYTES = 256 << 20
_ORIENTATION = 0x0112


class ImageError(ValueError):
    """A file that cannot be used as an image; the message is "<path>: <reason>"."""

    @property
    def reason(self) -> str:
        return str(self).rpartition(": ")[2]


def _oriented(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # a damaged EXIF block says nothing about orientation, and the pixels are fine
        return image
    return PIL.ImageOps.exif_transpose(image) if turned else image


def open_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    decode_side: int | None = None,
) -> PIL.Image.Image:
    """The decoded image, in the mode it is stored in, upright (EXIF); of an animation, the first frame.

    decode_side: a JPEG whose shorter side is larger is decoded at 1/2, 1/4 or 1/8 of its size as long as the shorter
    side stays at least this. Faster, and not the same pixels.  Raises ImageError, whatever is wrong.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ImageError(f"{path}: empty file")
            if size > max_bytes:
                raise ImageError(f"{path}: file above the limit of {max_bytes} bytes")
            image = PIL.Image.open(file, formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise ImageError(f"{path}: image above the limit of {max_pixels} pixels")
            if decode_side is not None:
                image.draft(None, (decode_side, decode_side))
            image.load()
            return _oriented(image)
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{path}: image above the limit of {max_pixels} pixels") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image ({', '.join(FORMATS)} are read)") from error
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or 'damaged or cut off'}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError, … on damaged files
        raise ImageError(f"{path}: damaged ({type(error).__name__})") from error


def eight_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Deep grey images as 8-bit ones: integers are taken to be 16-bit, floats to lie in [0, 1]. Others unchanged."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise ImageError(f"image of mode {image.mode}: values outside 0 to {top:g}, whose scale is unknown")
    return PIL.Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """RGB of 8 bits from any mode."""
    image = eight_bit(image)
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # the direct way warns about a transparency that is dropped on purpose
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"image of mode {image.mode}: has no conversion to RGB") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height as the header says, before EXIF's rotation; nothing is decoded. Raises ImageError."""
    try:
        with open(path, "rb") as file, PIL.Image.open(file, formats=FORMATS) as image:
            return image.size
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{path}: image above the limit of {MAX_PIXELS} pixels") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image ({', '.join(FORMATS)} are read)") from error
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or 'damaged or cut off'}") from error
    except Exception as error:  # see open_image
        raise ImageError(f"{path}: damaged ({type(error).__name__})") from error


def file_sha256(path: str | os.PathLike[str]) -> bytes:
    """Of the file's bytes. Raises ImageError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
