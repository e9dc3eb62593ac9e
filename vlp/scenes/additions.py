"""What a folder of generated scenes holds only where it was asked for: RefCOCO's files, panoptic segmentations, instances
whose categories are pairs of a colour and a shape (pairs/instances_{split}.json, "red star" with id 41), and dialogues.

They are added to a folder of any age, whose other files stay as they are: the scenes are drawn again in memory, and must
have the pixels that the folder's manifest names. An addition's files are written to a folder beside the target and moved
into it; additions/{name}.json comes last, and says that all of them are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlp.scenes.formats import coco_instances
from vlp.scenes.panoptic import coco_panoptic, segment_picture
from vlp.scenes.picture import Picture, mark_annotations
from vlp.scenes.refcoco import encode_refcoco
from vlp.scenes.visdial import visdial_files
from vlp.system.errors import UserError

Drawing = tuple[Picture, np.ndarray, list[np.ndarray]]  # its pixels, and the mask of each of its things
ADDITIONS = ("refcoco", "panoptic", "pairs", "visdial")
CROWDED_ADDITIONS = (
    "refcoco",
    "panoptic",
    "pairs",
)  # dialogues are about few groups, each of which a word or two can name


def has_addition(folder: Path, name: str) -> bool:
    """Whether `folder` has all files of an addition."""
    try:
        listed = json.loads((folder / "additions" / f"{name}.json").read_text())
    except (OSError, ValueError):
        return False
    return all((folder / file).is_file() for file in listed["sha256"]) and all(
        sum(1 for _ in (folder / images).glob("*.png")) == count for images, count in listed["images"].items()
    )


def add(folder: Path, name: str, drawings: Callable[[], Iterator[Drawing]]) -> None:
    """name: one of ADDITIONS.  folder: a finished set of scenes.  drawings: draws all of its scenes again, split by split.

    Returns at once where it is there.  Raises UserError where the pixels are not those of the folder's pictures.
    """
    if has_addition(folder, name):
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    part = folder.with_name(f".{folder.name}.{name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        drawn = _Checked(drawings())
        files = WRITERS[name](part, drawn, manifest)
        if drawn.digest.hexdigest() != manifest["pixels_sha256"]:
            raise UserError(
                f"{folder} holds pictures that this version of vlp, or of Pillow, draws otherwise, so nothing can be added to "
                "them; name another folder, or delete it and it is drawn again"
            )
        _save(part / "additions" / f"{name}.json", json.dumps(files, indent=1).encode())
        _move(part, folder, last=part / "additions" / f"{name}.json")
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Checked(Iterator[Drawing]):
    """The drawings, and the digest of the pixels of those seen so far."""

    def __init__(self, drawings: Iterator[Drawing]) -> None:
        self.drawings, self.digest = drawings, hashlib.sha256()

    def __next__(self) -> Drawing:
        drawing = next(self.drawings)
        self.digest.update(drawing[1].tobytes())
        return drawing


def _save(path: Path, content: bytes) -> str:
    """Its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _move(part: Path, folder: Path, *, last: Path) -> None:
    """File by file: what another process may be adding at the same time is equal."""
    for source in [*(path for path in sorted(part.rglob("*")) if path.is_file() and path != last), last]:
        target = folder / source.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _write_refcoco(part: Path, drawn: Iterator[Drawing], manifest: dict[str, Any]) -> dict[str, Any]:
    files = encode_refcoco([picture for picture, *_ in drawn], seed=manifest["seed"])
    return {"sha256": {name: _save(part / name, content) for name, content in files.items()}, "images": {}}


def _write_panoptic(part: Path, drawn: Iterator[Drawing], manifest: dict[str, Any]) -> dict[str, Any]:
    pictures: dict[str, list[Picture]] = {split: [] for split in manifest["images"]}
    annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in manifest["images"]}
    for picture, _, masks in drawn:
        colours, annotation = segment_picture(picture, masks)
        folder = part / "annotations" / f"panoptic_{picture.split}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(folder / picture.file, compress_level=1)
        pictures[picture.split].append(picture)
        annotations[picture.split].append(annotation)
    digests = {}
    for split, listed in pictures.items():
        name = f"annotations/panoptic_{split}.json"
        digests[name] = _save(part / name, json.dumps(coco_panoptic(listed, annotations[split])).encode())
    return {
        "sha256": digests, "images": {f"annotations/panoptic_{split}": len(listed) for split, listed in pictures.items()}
    }  # fmt: skip


def _write_pairs(part: Path, drawn: Iterator[Drawing], manifest: dict[str, Any]) -> dict[str, Any]:
    pictures: dict[str, list[Picture]] = {split: [] for split in manifest["images"]}
    for picture, _, masks in drawn:
        pictures[picture.split].append(_divide_crowds(picture, masks))
    digests = {}
    for split, listed in pictures.items():
        name = f"pairs/instances_{split}.json"
        digests[name] = _save(part / name, json.dumps(coco_instances(listed, pairs=True)).encode())
    return {"sha256": digests, "images": {}}


def _write_visdial(part: Path, drawn: Iterator[Drawing], manifest: dict[str, Any]) -> dict[str, Any]:
    pictures: dict[str, list[Picture]] = {split: [] for split in manifest["images"]}
    for picture, *_ in drawn:
        pictures[picture.split].append(picture)
    digests = {
        name: _save(part / name, json.dumps(content).encode())
        for split, listed in pictures.items()
        for name, content in visdial_files(listed, split, seed=manifest["seed"]).items()
    }
    return {"sha256": digests, "images": {}}


def _divide_crowds(picture: Picture, masks: list[np.ndarray]) -> Picture:
    """The picture with each crowd divided by colour: its things of one colour are a crowd of their own, or stand alone."""
    things, divided = picture.scene.things, []
    for members in picture.members:
        for colour in dict.fromkeys(things[member].colour for member in members):
            divided.append(tuple(member for member in members if things[member].colour == colour))
    return replace(picture, **mark_annotations(divided, masks))


WRITERS: dict[str, Callable[[Path, Iterator[Drawing], dict[str, Any]], dict[str, Any]]] = {
    "refcoco": _write_refcoco,
    "panoptic": _write_panoptic,
    "pairs": _write_pairs,
    "visdial": _write_visdial,
}
