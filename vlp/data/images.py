"""From a file to pixels. The header is checked before anything is decoded, so a file cannot ask for more memory than allowed.

Pillow decodes; TorchCodec (`pip install 'vlp[fast]'`), where it is asked for, decodes JPEG to the same pixels in less
time. Colour: transparency is dropped, not blended, as `convert("RGB")` in OpenAI's preprocessing does, so a transparent
pixel shows whatever colour the file stores under it. 16-bit grey is scaled to 8 bits, where Pillow would clip it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps

from vlp.structures import Member
from vlp.system.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 80_000_000  # below Pillow's own warning
MAX_BYTES = 256 << 20
_ORIENTATION = 0x0112


class ImageError(UserError):
    """A file that cannot be used as an image; the message is "<path>: <reason>"."""

    @property
    def reason(self) -> str:
        return str(self).rpartition(": ")[2]


@dataclass(frozen=True)
class Photo:
    """A file whose header was read and is acceptable; a JPEG is not decoded yet.

    turned: EXIF wants it another way up.  size: width and height, upright.  region: left, top, right and bottom of the part
    that counts as the photo, of which size is then told.  whole: size of all of it.
    """

    place: str
    data: bytes
    image: PIL.Image.Image
    kind: str  # one of FORMATS
    turned: bool
    size: tuple[int, int]
    whole: tuple[int, int]
    region: tuple[int, int, int, int] | None = None

    def within(self, corners: Sequence[int | float]) -> Photo:
        """The part of it between left, top, right and bottom, to whole pixels and at least one.  Raises ImageError."""
        left, top = (max(0, math.floor(value)) for value in corners[:2])
        right, bottom = (min(side, math.ceil(value)) for side, value in zip(self.size, corners[2:], strict=True))
        if right <= left or bottom <= top:
            raise ImageError(f"{self.place}: a region outside the photo of {self.size[0]} x {self.size[1]} pixels")
        return replace(self, size=(right - left, bottom - top), region=(left, top, right, bottom))


@contextmanager
def told(place: object, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Whatever goes wrong with an image inside becomes an ImageError that names the place."""
    try:
        yield
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{place}: image above the limit of {max_pixels} pixels") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{place}: not an image ({', '.join(FORMATS)} are read)") from error
    except OSError as error:
        raise ImageError(f"{place}: {error.strerror or 'damaged or cut off'}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError, … on damaged files
        raise ImageError(f"{place}: damaged ({type(error).__name__})") from error


def read_bytes(source: str | os.PathLike[str] | Member, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Of a file, of a file inside a tar, or of what the text form of one names."""
    if isinstance(source, (str, Path)) and "!" in str(source) and not os.path.lexists(source):
        source = Member.parse(str(source)) or source
    if isinstance(source, Member):
        return _read_member(source, max_bytes)
    with told(source), open(source, "rb", opener=_not_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{source}: not a file")
        if status.st_size == 0:
            raise ImageError(f"{source}: empty file")
        if status.st_size > max_bytes:
            raise ImageError(f"{source}: file above the limit of {max_bytes} bytes")
        return file.read(status.st_size)


def _read_member(member: Member, max_bytes: int) -> bytes:
    if member.size == 0:
        raise ImageError(f"{member}: empty file")
    if member.size > max_bytes:
        raise ImageError(f"{member}: file above the limit of {max_bytes} bytes")
    with told(member):
        if member.fetch is not None and not member.archive.exists():
            member.fetch()
        with open(member.archive, "rb") as file:
            data = os.pread(file.fileno(), member.size, member.offset)
    if len(data) < member.size:
        raise ImageError(f"{member}: cut off")
    return data


def _not_waiting(path: str, flags: int) -> int:
    """A named pipe would else be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_photo(
    source: str | os.PathLike[str] | Member, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Photo:
    """Raises ImageError, whatever is wrong."""
    data = read_bytes(source, max_bytes=max_bytes)
    with told(source, max_pixels):
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageError(f"{source}: image above the limit of {max_pixels} pixels")
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # several JPEGs in one file, as phones write them
        if kind in ("PNG", "TIFF"):
            image.load()  # their orientation may be told behind the pixels
        orientation = orientation_of(image) if kind != "JPEG" or {"exif", "xmp"} & image.info.keys() else 1
        size = (image.height, image.width) if orientation >= 5 else image.size
        return Photo(str(source), data, image, kind, turned=orientation != 1, size=size, whole=size)


def orientation_of(image: PIL.Image.Image) -> int:
    """1 to 8, 1 = as it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about orientation, and the pixels are fine
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def decode(photo: Photo, *, reduced: int = 1) -> PIL.Image.Image:
    """The whole image, whatever its region, in the mode it is stored in, upright; of an animation, the first frame.

    reduced: 2, 4 or 8 = a JPEG may be decoded at that part of its sides (in the DCT's own domain): faster, and not the same
    pixels; where the file cannot, it is decoded in full.
    """
    with told(photo.place):
        image = photo.image
        if reduced > 1:
            image.draft(None, (image.width // reduced, image.height // reduced))
        image.load()
        return PIL.ImageOps.exif_transpose(image) if photo.turned else image


def load(photo: Photo) -> PIL.Image.Image:
    """What `decode` gives in full, or the photo's region of it."""
    image = decode(photo)
    return image if photo.region is None else image.crop(photo.region)


def open_image(
    source: str | os.PathLike[str] | Member,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    decode_side: int | None = None,
) -> PIL.Image.Image:
    """`decode` of `open_photo`.  decode_side: a JPEG whose shorter side is larger is decoded at 1/2, 1/4 or 1/8 of its size
    as long as the shorter side stays at least this."""
    photo = open_photo(source, max_pixels=max_pixels, max_bytes=max_bytes)
    reduced = 1
    if decode_side is not None:
        reduced = next((part for part in (8, 4, 2) if min(photo.size) // part >= decode_side), 1)
    return decode(photo, reduced=reduced)


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


def image_size(source: str | os.PathLike[str] | Member) -> tuple[int, int]:
    """Width and height as the header says, before EXIF's rotation; nothing is decoded. Raises ImageError."""
    file = io.BytesIO(read_bytes(source)) if isinstance(source, Member) else source
    with told(source), PIL.Image.open(file, formats=FORMATS) as image:
        return image.size


def file_sha256(source: str | os.PathLike[str] | Member) -> bytes:
    """Of the file's bytes. Raises ImageError."""
    return hashlib.sha256(read_bytes(source)).digest()
