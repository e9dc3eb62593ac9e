"""Generate VCR's files from scenes, one question a picture, with exact truth.

    {train,val,test}.jsonl           VCR's rows; test has labels here
    mixed/{val,test}.jsonl           the same questions, with rationales of several kinds (see `vlp.scenes.vcr.rows`)
    vcr1images/{split}/*.png, *.json the pictures and their metadata
    README.md     manifest.json

Question i of a split depends only on (seed, split, i): a larger set begins with the smaller one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vlp.scenes.formats import LICENCE
from vlp.scenes.generate import write_folder
from vlp.scenes.vcr.rows import Row, write_row
from vlp.system.errors import UserError

SPLITS = ("train", "val", "test")
MIXED = ("val", "test")
IMAGES = "vcr1images"
VERSION = "1.0"
SMALLEST = 64  # pixels; below, a ring and a cross look alike
README = """# Generated visual commonsense reasoning
Drawn by `vlp scenes --vcr`, from nothing but a seed (see manifest.json). CC0 1.0: no rights reserved.
Files have the layout of VCR 1.0 (visualcommonsense.com). Words and tags say nothing about which choice is right: check it by
`vlp scenes OUT --vcr --check`. In mixed/ the wrong rationales are of several kinds, and some can be excluded by words alone.
"""


def generate_vcr(out: Path, *, images: Mapping[str, int], size: int = 64, seed: int = 0) -> None:
    """images: how many questions, each with a picture of its own, of some of SPLITS.  size: pixels of a side.

    Returns at once where `out` holds exactly this.  Raises FileExistsError where it holds anything else.
    """
    if not images or set(images) - set(SPLITS) or any(count < 1 for count in images.values()):
        raise UserError(f"images={dict(images)}: give numbers above 0 for some of {', '.join(SPLITS)}")
    if size < SMALLEST:
        raise UserError(f"scenes of {size} pixels are too small for marks; choose a size of at least {SMALLEST}")
    request: dict[str, Any] = {"images": dict(images), "size": size, "seed": seed}
    if not is_complete(out, **request):
        write_folder(out, partial(_write_all, **request), partial(is_complete, **request))


def is_complete(out: Path, *, images: Mapping[str, int], size: int, seed: int) -> bool:
    """Whether `out` holds a finished set of just this kind, with no file missing."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    request = {"vcr": VERSION, "seed": seed, "size": size, "images": dict(images)}
    return (
        all(manifest.get(key) == value for key, value in request.items())
        and all((out / name).is_file() for name in manifest["sha256"])
        and all(
            sum(1 for _ in (out / IMAGES / split).glob(f"*.{ending}")) == count
            for split, count in images.items()
            for ending in ("png", "json")
        )
    )


def _write_all(root: Path, *, images: Mapping[str, int], size: int, seed: int) -> None:
    digests: dict[str, str] = {}
    pixels = hashlib.sha256()
    for split, count in images.items():
        (root / IMAGES / split).mkdir(parents=True)
        names = [f"{split}.jsonl", *([f"mixed/{split}.jsonl"] if split in MIXED else [])]
        with ExitStack() as files:
            (root / "mixed").mkdir(exist_ok=True)
            streams = [files.enter_context((root / name).open("w", encoding="utf-8")) for name in names]
            for index in range(count):
                row = write_row(seed=seed, split=split, index=index, size=size)
                pixels.update(row.pixels.tobytes())
                _write_picture(root / IMAGES, row)
                for stream, line in zip(streams, (row.official, row.mixed), strict=False):
                    stream.write(json.dumps(line) + "\n")
        digests |= {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}
    (root / "README.md").write_text(README)
    manifest = {
        "vcr": VERSION, "seed": seed, "size": size, "images": dict(images), "licence": LICENCE,
        "pixels_sha256": pixels.hexdigest(), "sha256": digests,
    }  # fmt: skip
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _write_picture(folder: Path, row: Row) -> None:
    Image.fromarray(row.pixels).save(folder / row.official["img_fn"], compress_level=1)
    (folder / row.official["metadata_fn"]).write_text(json.dumps(row.metadata))
