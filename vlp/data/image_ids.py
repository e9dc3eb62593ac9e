"""The number of a photo, the same wherever data sets share it: COCO's ids, and ranges of their own for all others.

COCO's file names hold its ids. Photos outside COCO that have a number of Flickr's, as all of Flickr8k and Flickr30k and
some of Visual Genome, Visual Genome's others, and files of no known data set get ranges from 2^44 on that no other
reader gives. `listed_photos` reads which photos to leave out of training.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from vlp.data.annotation_files import is_id, listed, read_json, read_lines, records
from vlp.data.issues import DataError

GENOME = 1 << 44  # + Visual Genome's image_id
FLICKR = 1 << 45  # + Flickr's own number of the photo, which begins its file name: 1000268201_693b08cb0e.jpg
OTHER = 1 << 62  # + a hash of the path
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")
_FLICKR = re.compile(r"(\d{1,12})(_[0-9a-f]{10})?")  # Flickr30k's names lack the second part
_FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")


def genome_photo(image: int, coco: int | None = None, flickr: int | None = None) -> int:
    if coco is not None:
        return coco
    return GENOME + image if flickr is None else FLICKR + flickr


def flickr_photo(file: str) -> int:
    """Of a file of Flickr8k or Flickr30k, whose name begins with the photo's number; any other as `photo_of_file` says."""
    found = _FLICKR.fullmatch(PurePosixPath(file).stem)
    return photo_of_file(file) if found is None else FLICKR + int(found[1])


def photo_of_file(path: str) -> int:
    """By the file's name: COCO's `COCO_val2014_000000391895.jpg` or `000000391895.jpg`, Visual Genome's `VG_100K/2.jpg`,
    Flickr's `1000268201_693b08cb0e.jpg` or `flickr30k-images/36979.jpg`; any other path by its hash (61 bits)."""
    file = PurePosixPath(path)
    if found := _COCO.fullmatch(file.stem):
        return int(found[1])
    if file.parent.name in ("VG_100K", "VG_100K_2") and file.stem.isdecimal():
        return genome_photo(int(file.stem))
    if (found := _FLICKR.fullmatch(file.stem)) and (found[2] or file.parent.name in _FLICKR_FOLDERS):
        return FLICKR + int(found[1])
    return OTHER + hashed(path)


def hashed(text: str) -> int:
    """61 bits."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="backslashreplace")).digest()[:8], "big") % (1 << 61)


def genome_photos(path: Path) -> dict[int, int]:
    """From Visual Genome's `image_data.json`: what its photos are called here where COCO or Flickr have a number for them,
    by what they would be called by their file names."""
    found = {}
    for number, record in enumerate(listed(read_json(path, what="Visual Genome's photos"), place=path)):
        image = record.get("image_id", record.get("id"))
        if not is_id(image):
            raise DataError("missing key", f"{path}: [{number}]: expected a whole number image_id")
        coco, flickr = record.get("coco_id"), record.get("flickr_id")
        known = genome_photo(image, coco if is_id(coco) else None, flickr if is_id(flickr) else None)
        if known != genome_photo(image):
            found[genome_photo(image)] = known
    return found


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
    """7, "7", "7.jpg", "7_693b08cb0e.jpg" and "COCO_val2014_000000000007.jpg" are photo 7."""
    stem = PurePosixPath(str(told)).stem
    found = _FLICKR.fullmatch(stem) or re.search(r"(\d+)$", stem)
    if found is None:
        raise DataError("not a photo", f"{place}: {str(told)[:80]!r} is no number or file name of a photo")
    return int(found[1])
