"""A file of instances in COCO's form for data that have none, so that all boxes are evaluated by the same code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.boxes import Size
from vlp.structures import Sample
from vlp.system.atomic import atomic_write_text

CACHE = "~/.cache/vlp/instances"


def cache_folder(given: str | Path | None) -> Path:
    """given: None = $VLP_CACHE, else ~/.cache/vlp/instances."""
    return Path(given or os.environ.get("VLP_CACHE") or CACHE).expanduser()


def write_instances(
    samples: Iterable[Sample],
    sizes: Mapping[int, Size],
    names: Sequence[str],
    ids: Sequence[int],
    *,
    folder: Path,
    name: str,
) -> Path:
    """The file, below `folder`; its name ends with a digest of its content, so processes that write it at the same time write
    the same.

    samples: with `boxes`, `box_labels` and `box_crowds`.  sizes: width and height of each photo, by id.  names, ids: of the
    classes. A crowd is ignored: what lies in it counts neither as found nor as wrong. Areas are those of the boxes.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        width, height = sizes[sample.id]
        file = Path(str(sample.image)).name
        images.append({"id": sample.id, "file_name": file, "width": round(width), "height": round(height)})
        for index, (left, top, right, bottom) in enumerate(sample.boxes or ()):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": sample.id, "category_id": ids[sample.box_labels[index]],
                    "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                    "iscrowd": int(bool(sample.box_crowds) and sample.box_crowds[index]),
                }
            )  # fmt: skip
    categories = [{"id": number, "name": word} for number, word in zip(ids, names, strict=True)]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    path = folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, content)
    return path
