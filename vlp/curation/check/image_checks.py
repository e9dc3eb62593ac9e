"""Every photo of some samples opened and decoded, in several processes: what is wrong with which, and how large they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlp.data.annotation_files import Folders
from vlp.data.images import ImageError, load, open_photo, to_rgb
from vlp.structures import Member
from vlp.system.parallel import parallel_map

KINDS = {
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
class Look:
    """error: "<path>: <reason>" of a photo that cannot be used.  size: width and height, upright."""

    error: str | None = None
    reason: str | None = None
    size: tuple[int, int] | None = None
    mode: str | None = None


def look(image: Any) -> Look:
    try:
        photo = open_photo(image)
        decoded = load(photo)
        mode = decoded.mode
        to_rgb(decoded)
    except ImageError as error:
        told = str(error) if str(error).startswith(str(image)) else f"{image}: {error}"
        return Look(error=told, reason=error.reason)
    return Look(size=photo.size, mode=mode)


def kind(reason: str) -> str:
    """The fault that a reason is an instance of, in few words."""
    plain = re.sub(r" \(.*\)$", "", reason)
    if "limit" in plain:
        return "image above the limit"
    return KINDS.get(plain, plain)


def looks(images: Sequence[Any], *, workers: int | None = None) -> list[Look]:
    return list(parallel_map(look, images, workers=workers))


def presence(images: Sequence[Any]) -> list[Look]:
    """Only whether the files are there."""
    folders = Folders()
    missing = "No such file or directory"
    return [
        Look() if isinstance(image, Member) or folders.is_file(str(image)) else Look(f"{image}: {missing}", missing)
        for image in images
    ]


def shapes(found: Sequence[Look]) -> dict[str, Any]:
    """Of the photos that can be read: how many of each mode, and quantiles of their shorter side in pixels."""
    sides = sorted(min(one.size) for one in found if one.size is not None)
    if not sides:
        return {}
    places = {"min": 0, "median": len(sides) // 2, "max": -1}
    quantiles = {name: sides[place] for name, place in places.items()}
    return {"modes": dict(Counter(one.mode for one in found if one.mode).most_common()), "shorter_side": quantiles}
