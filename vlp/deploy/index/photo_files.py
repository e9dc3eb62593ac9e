"""What the index needs of a photo's file beyond vlp/data/images.py: what it is, when it was taken, a part of it, a thumbnail."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import PurePath

import PIL.Image

from vlp.data.images import FORMATS, IMAGE_EXTENSIONS, open_image, reraise_as_image_error, to_rgb_on_white
from vlp.system.errors import UserError
from vlp.system.tar_members import Member

HEAD_BYTES = 32
RAW_NAMES = frozenset(("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf", "pef", "srw"))
HEIC_NAMES = frozenset(("heic", "heif", "hif"))
PHOTO_NAMES = IMAGE_EXTENSIONS | RAW_NAMES | HEIC_NAMES
NO_PHOTO = "no photo"
_BEGINNINGS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
)
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))
_TAKEN = (0x9003, 0x9004, 0x0132)  # DateTimeOriginal, DateTimeDigitized, DateTime
_EXIF_IFD = 0x8769


def why_no_photo(path: str, head: bytes) -> str | None:
    """Judged by the first bytes of the file; None = it may be a photo of a format that is read."""
    suffix = PurePath(path).suffix.lower().lstrip(".")
    if not head:
        return "empty file" if suffix in PHOTO_NAMES else NO_PHOTO
    if suffix in RAW_NAMES:  # a TIFF to Pillow, with a stamp-sized picture in it
        return "a camera's raw file, which is not read; export it as JPEG"
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _HEIC_BRANDS:
        return "HEIC, which is not read; convert it to JPEG"
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    if brand in (b"avif", b"avis") or is_webp or head.startswith(_BEGINNINGS):
        return None
    return f"no image in spite of its name ({', '.join(FORMATS)} are read)" if suffix in PHOTO_NAMES else NO_PHOTO


def is_member(path: str) -> bool:
    """Whether a path is of a member of a tar file."""
    return "!" in path and Member.parse(path) is not None and not os.path.lexists(path)


def date_taken(image: PIL.Image.Image) -> str | None:
    """EXIF's date and time as 2024-05-01T12:30:00; None where there is none, or one that no calendar has."""
    with suppress(Exception):  # a damaged EXIF block has no date, and the pixels can still be used
        exif = image.getexif()
        for values in (exif.get_ifd(_EXIF_IFD), exif):
            for tag in _TAKEN:
                with suppress(ValueError):
                    if tag in values:
                        text = str(values[tag]).strip("\0 ")
                        return datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    return None


def crop_region(image: PIL.Image.Image, region: Sequence[float | int]) -> PIL.Image.Image:
    """region: left, top, right and bottom as parts of the sides, from 0 to 1.  Raises UserError."""
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        corners = ",".join(f"{value:g}" for value in region)
        raise UserError(f"region {corners}: expected left < right and top < bottom between 0 and 1")
    width, height = image.size
    first, last = (int(left * width), int(top * height)), (round(right * width), round(bottom * height))
    return image.crop((*first, max(first[0] + 1, last[0]), max(first[1] + 1, last[1])))


def thumbnail_jpeg(path: str, side: int) -> bytes:
    """A JPEG whose longer side has at most `side` pixels, white behind what is transparent.  Raises ImageError, for a missing file
    with the way to find where it is now."""
    if not is_member(path) and not os.path.lexists(path):
        raise UserError(f"{path}: the file is missing; `vlp index` notices what was moved or deleted")
    image = open_image(path, decode_side=side)
    with reraise_as_image_error(path):
        image = to_rgb_on_white(image)
        image.thumbnail((side, side), PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
