"""The number of a photo, the same wherever data sets share it: COCO's ids, and ranges of their own for all others.

COCO's file names hold its ids. Visual Genome's photos outside COCO, and files of no known data set, get numbers from
2^44 on that no other reader gives. `listed_photos` reads which photos to leave out of training.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from vlp.data.files import read_json, read_lines, records

GENOME = 1 << 44  # + Visual Genome's image_id
OTHER = 1 << 62  # + a hash of the path
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")


def genome_photo(image: int, coco: int | None = None) -> int:
    return GENOME + image if coco is None else coco


def photo_of_file(path: str) -> int:
    """By the file's name: COCO's `COCO_val2014_000000391895.jpg` or `000000391895.jpg`, Visual Genome's `VG_100K/2.jpg`;
    any other path by its hash (61 bits)."""
    file = PurePosixPath(path)
    if found := _COCO.fullmatch(file.stem):
        return int(found[1])
    if file.parent.name in ("VG_100K", "VG_100K_2") and file.stem.isdecimal():
        return genome_photo(int(file.stem))
    return OTHER + hashed(path)


def hashed(text: str) -> int:
    """61 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (1 << 61)


def listed_photos(path: Path) -> set[int]:
    """Numbers (COCO's or Flickr's) of a text file or JSON list, one a line or item, file names allowed; of a Karpathy
    file (`dataset_coco.json`, `dataset_flickr30k.json`) those of its val and test images."""
    if path.suffix != ".json":
        return {
            _number(line.strip(), place=f"{path}, line {n}") for n, line in read_lines(path, what="the list of photos")
        }
    content = read_json(path, what="the list of photos")
    if isinstance(content, list):
        return {_number(item, place=str(path)) for item in content}
    images = [image for image in records(content, "images", place=path) if image.get("split") in ("val", "test")]
    return {_number(image.get("cocoid", image.get("filename")), place=str(path)) for image in images}


def _number(told: object, *, place: str) -> int:
    """7, "7", "7.jpg" and "COCO_val2014_000000000007.jpg" are photo 7."""
    found = re.search(r"(\d+)$", PurePosixPath(str(told)).stem)
    if found is None:
        raise ValueError(f"{place}: {str(told)[:80]!r} is no number or file name of a photo")
    return int(found[1])
