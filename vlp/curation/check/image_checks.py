"""Opens and decodes photos in several processes: the fault of each, and statistics of their sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlp.data.annotation_files import FolderListings
from vlp.data.images import ImageError, decode_region, open_photo, to_rgb
from vlp.structures import Member
from vlp.system.parallel import parallel_map

FAULT_KINDS = {
    "No such file or directory": "missing image",
    "Is a directory": "image that is a folder",
    "Permission denied": "unreadable image",
    "empty file": "empty image file",
    "damaged or cut off": "damaged image",
    "damaged": "damaged image",
    "cut off": "damaged image",
    "not an image": "not an image",
}


@dataclass(frozen=True)
class ImageCheck:
    """error: "<path>: <reason>" of a photo that cannot be used.  size: width and height in pixels, upright."""

    error: str | None = None
    reason: str | None = None
    size: tuple[int, int] | None = None
    mode: str | None = None


def check_image(image: Any) -> ImageCheck:
    try:
        photo = open_photo(image)
        decoded = decode_region(photo)
        to_rgb(decoded)
    except ImageError as error:
        message = str(error) if str(error).startswith(str(image)) else f"{image}: {error}"
        return ImageCheck(error=message, reason=error.reason)
    return ImageCheck(size=photo.size, mode=decoded.mode)


def fault_kind(reason: str) -> str:
    """The kind of fault, without the details in parentheses."""
    plain = re.sub(r" \(.*\)$", "", reason)
    if "limit" in plain:
        return "image above the limit"
    return FAULT_KINDS.get(plain, plain)


def check_images(images: Sequence[Any], *, workers: int | None = None) -> list[ImageCheck]:
    return list(parallel_map(check_image, images, workers=workers))


def check_existence(images: Sequence[Any]) -> list[ImageCheck]:
    """Checks only whether the files exist."""
    folders = FolderListings()
    missing = "No such file or directory"
    return [
        ImageCheck()
        if isinstance(image, Member) or folders.is_file(str(image))
        else ImageCheck(f"{image}: {missing}", missing)
        for image in images
    ]


def image_statistics(checks: Sequence[ImageCheck]) -> dict[str, Any]:
    """Of the readable photos: how many have each mode, and quantiles of their shorter side in pixels."""
    sides = sorted(min(check.size) for check in checks if check.size is not None)
    if not sides:
        return {}
    quantiles = {"min": sides[0], "median": sides[len(sides) // 2], "max": sides[-1]}
    modes = Counter(check.mode for check in checks if check.mode)
    return {"modes": dict(modes.most_common()), "shorter_side": quantiles}
