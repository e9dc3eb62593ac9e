"""The id of a photo, equal in all data sets that contain it: COCO's ids, and a range of ids for each other origin.

COCO's file names contain its ids. Other photos get ids from 2^44 on: by Flickr's number (all of Flickr8k and Flickr30k,
some of Visual Genome), by Visual Genome's, or by a hash of the path. `read_image_id_list` reads which photos to exclude from
training.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from vlp.data.annotation_files import is_id, objects_in_list, objects_under_key, read_json, read_lines
from vlp.data.issues import DataError

GENOME_BASE = 1 << 44  # + Visual Genome's image_id
FLICKR_BASE = 1 << 45  # + Flickr's own number of the photo, which begins its file name: 1000268201_693b08cb0e.jpg
OTHER_BASE = 1 << 62  # + a hash of the path
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")
_FLICKR = re.compile(r"(\d{1,12})(_[0-9a-f]{10})?")  # Flickr30k's names lack the second part
_FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset")


def visual_genome_id(image: int, coco: int | None = None, flickr: int | None = None) -> int:
    if coco is not None:
        return coco
    return GENOME_BASE + image if flickr is None else FLICKR_BASE + flickr


def flickr_image_id(file: str) -> int:
    """Of a file of Flickr8k or Flickr30k, whose name begins with Flickr's number; else that of `image_id_from_path`."""
    match = _FLICKR.fullmatch(PurePosixPath(file).stem)
    return image_id_from_path(file) if match is None else FLICKR_BASE + int(match[1])


def image_id_from_path(path: str) -> int:
    """By the file's name: COCO's `COCO_val2014_000000391895.jpg` or `000000391895.jpg`, Visual Genome's `VG_100K/2.jpg`,
    Flickr's `1000268201_693b08cb0e.jpg` or `flickr30k-images/36979.jpg`; any other path by its hash (61 bits)."""
    file = PurePosixPath(path)
    if match := _COCO.fullmatch(file.stem):
        return int(match[1])
    if file.parent.name in ("VG_100K", "VG_100K_2") and file.stem.isdecimal():
        return visual_genome_id(int(file.stem))
    if (match := _FLICKR.fullmatch(file.stem)) and (match[2] or file.parent.name in _FLICKR_FOLDERS):
        return FLICKR_BASE + int(match[1])
    return OTHER_BASE + hash_61_bits(path)


def hash_61_bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode(errors="backslashreplace")).digest()[:8], "big") % (1 << 61)


def read_shared_genome_ids(path: Path) -> dict[int, int]:
    """From Visual Genome's `image_data.json`: for its photos that have a number of COCO or Flickr, the id by that number,
    by the id of their file names."""
    shared_ids = {}
    for number, record in enumerate(
        objects_in_list(read_json(path, description="Visual Genome's photos"), location=path)
    ):
        image = record.get("image_id", record.get("id"))
        if not is_id(image):
            raise DataError("missing key", f"{path}: [{number}]: image_id must be an integer from 0 on")
        coco, flickr = record.get("coco_id"), record.get("flickr_id")
        shared_id = visual_genome_id(image, coco if is_id(coco) else None, flickr if is_id(flickr) else None)
        if shared_id != visual_genome_id(image):
            shared_ids[visual_genome_id(image)] = shared_id
    return shared_ids


def read_image_id_list(path: Path) -> set[int]:
    """COCO's or Flickr's numbers, or file names, from a text file (one a line), a JSON list, or a Karpathy file
    (`dataset_coco.json`, `dataset_flickr30k.json`), of which the val and test images are read."""
    if path.suffix != ".json":
        return {
            _parse_photo_number(line.strip(), location=f"{path}, line {n}")
            for n, line in read_lines(path, description="the list of photos")
        }
    content = read_json(path, description="the list of photos")
    if isinstance(content, list):
        return {_parse_photo_number(item, location=str(path)) for item in content}
    images = [
        image for image in objects_under_key(content, "images", location=path) if image.get("split") in ("val", "test")
    ]
    return {_parse_photo_number(image.get("cocoid", image.get("filename")), location=str(path)) for image in images}


def _parse_photo_number(name: object, *, location: str) -> int:
    """7, "7", "7.jpg", "7_693b08cb0e.jpg" and "COCO_val2014_000000000007.jpg" are photo 7."""
    stem = PurePosixPath(str(name)).stem
    match = _FLICKR.fullmatch(stem) or re.search(r"(\d+)$", stem)
    if match is None:
        message = f"{location}: {str(name)[:80]!r} is no photo; write its number or file name"
        raise DataError("not a photo", message)
    return int(match[1])
