"""From a file to pixels. The header is checked before anything is decoded, so that no file needs more memory than allowed.

Pillow decodes, and torch is not imported. Colour: transparency is dropped, not blended, as `convert("RGB")` in OpenAI's
preprocessing does, so a transparent pixel has the colour that the file stores for it. 16-bit grey is scaled to 8 bits, where
Pillow would clip it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from vlp.system.errors import UserError
from vlp.system.tar_members import Member

EXTENSIONS = {  # of the files of each format; the first is the one that is written
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"), "PNG": ("png",), "WEBP": ("webp",), "GIF": ("gif",), "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"), "AVIF": ("avif",), "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpx", "jpf"),
}  # fmt: skip
FORMATS = tuple(EXTENSIONS)
IMAGE_EXTENSIONS = frozenset(extension for extensions in EXTENSIONS.values() for extension in extensions)
MAX_PIXELS = 80_000_000  # below Pillow's own warning
MAX_BYTES = 256 << 20
_ORIENTATION = 0x0112


def is_hidden(path: PurePath) -> bool:
    """Whether a part of a relative path is a hidden name, as `.ipynb_checkpoints` and `._1.jpg`, or macOS's folder of them."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


class ImageError(UserError):
    """A file that cannot be used as an image; the message is "<path>: <reason>"."""

    @property
    def reason(self) -> str:
        return str(self).rpartition(": ")[2]


@dataclass(frozen=True)
class Photo:
    """An image file with a valid header; a JPEG is not decoded yet.

    needs_rotation: EXIF gives another orientation.  region: left, top, right and bottom of the part that is used, in pixels
    of the upright photo; None = all of it.  size: width and height of that part.  full_size: of the upright photo.
    """

    source: str
    encoded: bytes
    image: PIL.Image.Image
    format: str  # one of FORMATS
    needs_rotation: bool
    size: tuple[int, int]
    full_size: tuple[int, int]
    region: tuple[int, int, int, int] | None = None

    def crop_to(self, corners: Sequence[int | float]) -> Photo:
        """The part between left, top, right and bottom, enlarged to full pixels.  Raises ImageError if it is outside."""
        left, top = (max(0, math.floor(value)) for value in corners[:2])
        right, bottom = (min(side, math.ceil(value)) for side, value in zip(self.size, corners[2:], strict=True))
        if right <= left or bottom <= top:
            raise ImageError(f"{self.source}: a region outside the photo of {self.size[0]} x {self.size[1]} pixels")
        return replace(self, size=(right - left, bottom - top), region=(left, top, right, bottom))


@contextmanager
def reraise_as_image_error(source: object) -> Iterator[None]:
    """Any error inside becomes an ImageError that names the image."""
    try:
        yield
    except ImageError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"{source}: image above the limit of {MAX_PIXELS} pixels") from error
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"{source}: not an image ({', '.join(FORMATS)} are read)") from error
    except OSError as error:
        raise ImageError(f"{source}: {error.strerror or 'damaged or cut off'}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError, … on damaged files
        raise ImageError(f"{source}: damaged ({type(error).__name__})") from error


def read_bytes(source: str | os.PathLike[str] | Member, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file or of a member of a tar, also given by its text form.  Raises ImageError."""
    if isinstance(source, (str, Path)) and "!" in str(source) and not os.path.lexists(source):
        source = Member.parse(str(source)) or source
    if isinstance(source, Member):
        return _read_tar_member(source, max_bytes)
    with reraise_as_image_error(source), open(source, "rb", opener=_open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{source}: not a file")
        _check_file_size(source, status.st_size, max_bytes)
        return file.read(status.st_size)


def _check_file_size(source: object, size: int, max_bytes: int) -> None:
    if size == 0:
        raise ImageError(f"{source}: empty file")
    if size > max_bytes:
        raise ImageError(f"{source}: file above the limit of {max_bytes} bytes")


def _open_archive(member: Member, attempts: int = 5) -> BinaryIO:
    """Another process may remove a fetched shard from the cache before it is opened here."""
    for _ in range(attempts):
        if member.fetch is not None and not member.archive.exists():
            member.fetch()
        with suppress(FileNotFoundError):
            return open(member.archive, "rb")
    return open(member.archive, "rb")


def _read_tar_member(member: Member, max_bytes: int) -> bytes:
    _check_file_size(member, member.size, max_bytes)
    with reraise_as_image_error(member), _open_archive(member) as file:
        data = os.pread(file.fileno(), member.size, member.offset)
    if len(data) < member.size:
        raise ImageError(f"{member}: cut off")
    return data


def _open_nonblocking(path: str, flags: int) -> int:
    """An opener that does not wait for the writer of a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_photo(
    source: str | os.PathLike[str] | Member, *, max_bytes: int = MAX_BYTES, as_stored: bool = False
) -> Photo:
    """Raises ImageError for every problem of the file.  as_stored: without EXIF's orientation."""
    return parse_photo(read_bytes(source, max_bytes=max_bytes), source, as_stored=as_stored)


def parse_photo(data: bytes, source: object, *, max_bytes: int = MAX_BYTES, as_stored: bool = False) -> Photo:
    """As `open_photo`, of a file's content.  source: for messages."""
    _check_file_size(source, len(data), max_bytes)
    with reraise_as_image_error(source):
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{source}: image above the limit of {MAX_PIXELS} pixels")
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # several JPEGs in one file, as phones write them
        if kind in ("PNG", "TIFF"):
            image.load()  # their orientation may be stored after the pixels
        may_turn = not as_stored and (kind != "JPEG" or {"exif", "xmp"} & image.info.keys())
        orientation = exif_orientation(image) if may_turn else 1
        size = (image.height, image.width) if orientation >= 5 else image.size
        return Photo(str(source), data, image, kind, needs_rotation=orientation != 1, size=size, full_size=size)


def exif_orientation(image: PIL.Image.Image) -> int:
    """1 to 8; 1 = upright as stored."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block has no orientation, and the pixels can still be used
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def decode(photo: Photo, *, reduced: int = 1) -> PIL.Image.Image:
    """The full upright image, not only its region, in its stored mode; of an animation, the first frame.

    reduced: 2, 4 or 8 = a JPEG may be decoded at 1/2, 1/4 or 1/8 of its sides (by the DCT), which is faster and gives other
    pixels; other formats are decoded in full.
    """
    with reraise_as_image_error(photo.source):
        image = photo.image
        if reduced > 1:
            image.draft(None, (image.width // reduced, image.height // reduced))
        image.load()
        return PIL.ImageOps.exif_transpose(image) if photo.needs_rotation else image


def decode_region(photo: Photo) -> PIL.Image.Image:
    """The photo's region of the image, decoded in full."""
    image = decode(photo)
    return image if photo.region is None else image.crop(photo.region)


def open_image(
    source: str | os.PathLike[str] | Member, *, max_bytes: int = MAX_BYTES, decode_side: int | None = None
) -> PIL.Image.Image:
    """`decode` of `open_photo`.  decode_side: a JPEG whose shorter side is larger is decoded at 1/2, 1/4 or 1/8 of its size
    as long as the shorter side stays at least this."""
    photo = open_photo(source, max_bytes=max_bytes)
    reduced = 1
    if decode_side is not None:
        reduced = next((part for part in (8, 4, 2) if min(photo.size) // part >= decode_side), 1)
    return decode(photo, reduced=reduced)


def to_eight_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey images of more bits as 8-bit ones: integers are read as 16-bit, floats as [0, 1]. Other images are unchanged."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise ImageError(f"image of mode {image.mode}: values outside 0 to {top:g}, whose scale is unknown")
    return PIL.Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """RGB of 8 bits from any mode."""
    image = to_eight_bit(image)
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # converting directly warns about the transparency, which is dropped on purpose
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"image of mode {image.mode}: cannot be converted to RGB") from error


def to_rgb_on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """RGB of 8 bits from any mode, with white behind what is transparent."""
    if not image.has_transparency_data:
        return to_rgb(image)
    image = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def image_size(source: str | os.PathLike[str] | Member) -> tuple[int, int]:
    """Width and height in the header, before EXIF's rotation; nothing is decoded. Raises ImageError."""
    file = io.BytesIO(read_bytes(source)) if isinstance(source, Member) else source
    with reraise_as_image_error(source), PIL.Image.open(file, formats=FORMATS) as image:
        return image.size


def file_sha256(source: str | os.PathLike[str] | Member) -> bytes:
    """The digest of the file's bytes. Raises ImageError."""
    return hashlib.sha256(read_bytes(source)).digest()
