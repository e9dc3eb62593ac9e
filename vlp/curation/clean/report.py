"""The report of cleaning as JSON and as tables, and the list of kept samples, which `data=table` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from vlp.data.issues import MAX_EXAMPLES
from vlp.structures import Member, Sample
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError
from vlp.system.tables import build_table
from vlp.system.units import printable


@dataclass
class DropReason:
    """The images, or the captions, that were dropped for one reason."""

    what: Literal["image", "caption"]
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class CleanReport:
    """before, after: numbers of images and captions of each split.  dropped: by reason; each image or caption counts for the
    first that applies.  phrases: boilerplate, and the number of images that have it.  uncompared: unreadable evaluation
    images."""

    options: dict[str, Any]
    before: dict[str, dict[str, int]] = field(default_factory=dict)
    after: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, DropReason] = field(default_factory=dict)
    phrases: dict[str, int] = field(default_factory=dict)
    uncompared: int = 0

    def add_dropped(self, what: Literal["image", "caption"], reason: str, example: str) -> None:
        dropped = self.dropped.setdefault(reason, DropReason(what))
        dropped.count += 1
        if len(dropped.examples) < MAX_EXAMPLES:
            dropped.examples.append(example)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def tables(self) -> list[Table]:
        """For rich. Texts of the data are printed without markup and control codes."""
        counts = []
        for split, before in self.before.items():
            after = self.after[split]
            cells = (before["images"], after["images"], before["captions"], after["captions"])
            counts.append([printable(split), *(f"{cell:,}" for cell in cells)])
        reasons = [
            [f"{dropped.count:,}", f"{dropped.what}s", printable(reason), printable(dropped.examples[0], 160)]
            for reason, dropped in sorted(self.dropped.items(), key=lambda item: (item[1].what, -item[1].count))
        ]
        return [
            build_table(["split", "images", "left", "captions", "left"], counts),
            build_table(["dropped", "of", "reason", "for example"], reasons),
        ]


def count_images_and_captions(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, int]]:
    """Of each split: different images, and captions."""
    return {
        split: {
            "images": len({str(sample.image) for sample in split_samples}),
            "captions": sum(len(sample.captions) for sample in split_samples),
        }
        for split, split_samples in samples.items()
    }


def write_sample_table(
    kept: Mapping[str, Iterable[Sample]], path: Path, *, root: Path, class_names: Sequence[str] | None = None
) -> None:
    """A JSONL table of {"image", "captions", "split"} and, where samples have classes, "label"; image paths relative to root.
    The file is written atomically.  Raises UserError for another suffix, and for images that are not below root.

    To train on it: data=table data.root=<root> data.table=<path> data.caption=captions [data.label=label]
    """
    if path.suffix not in (".jsonl", ".ndjson"):
        raise UserError(f"{path}: the list is written as JSONL; give it a name that ends in .jsonl")
    atomic_write_text(path, _table_rows(kept, root, class_names))


def _table_rows(kept: Mapping[str, Iterable[Sample]], root: Path, class_names: Sequence[str] | None) -> Iterator[str]:
    for split, samples in kept.items():
        for sample in samples:
            if isinstance(sample.image, Member):
                raise UserError(
                    f"{sample.image}: is within a file, and a list can only name files; clean the data it was made of"
                )
            image = os.path.relpath(str(sample.image), root)
            if image.split(os.sep)[0] == os.pardir:
                raise UserError(f"{sample.image}: is not below {root}; give as root a folder that contains all images")
            row = {"image": image.replace(os.sep, "/"), "captions": list(sample.captions), "split": split}
            if class_names is not None and sample.label is not None:
                row["label"] = class_names[sample.label]
            yield json.dumps(row, ensure_ascii=False) + "\n"
