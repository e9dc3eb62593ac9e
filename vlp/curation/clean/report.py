"""What cleaning dropped and why, as JSON and as a table; and the cleaned list, which `data=table` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from vlp.data.issues import EXAMPLES
from vlp.structures import Sample
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError
from vlp.system.tables import table
from vlp.system.units import printable


@dataclass
class Dropped:
    """All images, or all captions, that were dropped for one reason."""

    what: Literal["image", "caption"]
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class CleanReport:
    """before, after: images and captions of each split.  dropped: by reason; each thing counts for the first that applies.
    phrases: boilerplate, and the number of images that have it.  uncompared: evaluation images that cannot be read."""

    options: dict[str, Any]
    before: dict[str, dict[str, int]] = field(default_factory=dict)
    after: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    phrases: dict[str, int] = field(default_factory=dict)
    uncompared: int = 0

    def drop(self, what: Literal["image", "caption"], reason: str, example: str) -> None:
        dropped = self.dropped.setdefault(reason, Dropped(what))
        dropped.count += 1
        if len(dropped.examples) < EXAMPLES:
            dropped.examples.append(example)

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def tables(self) -> list[Table]:
        """For rich to print. Texts of others stand there as they are: they hold no markup and move no cursor."""
        left = []
        for split, before in self.before.items():
            after = self.after[split]
            cells = (before["images"], after["images"], before["captions"], after["captions"])
            left.append([printable(split), *(f"{cell:,}" for cell in cells)])
        reasons = [
            [f"{dropped.count:,}", f"{dropped.what}s", printable(reason), printable(dropped.examples[0], 160)]
            for reason, dropped in sorted(self.dropped.items(), key=lambda item: (item[1].what, -item[1].count))
        ]
        return [
            table(["split", "images", "left", "captions", "left"], left),
            table(["dropped", "of", "reason", "for example"], reasons),
        ]


def sizes(samples: Iterable[Sample]) -> dict[str, int]:
    """Different images, and captions."""
    images, captions = set(), 0
    for sample in samples:
        images.add(str(sample.image))
        captions += len(sample.captions)
    return {"images": len(images), "captions": captions}


def write_cleaned(
    kept: Mapping[str, Iterable[Sample]], path: Path, *, root: Path, class_names: Sequence[str] | None = None
) -> None:
    """A JSONL table of {"image", "captions", "split"} and, where samples have classes, "label"; image paths relative to root.
    The file appears only when complete.

    To train on it: data=table data.root=<root> data.table=<path> data.caption=captions [data.label=label]
    """
    if path.suffix not in (".jsonl", ".ndjson"):
        raise UserError(f"{path}: the cleaned list is JSONL; give it a name that ends in .jsonl")
    atomic_write_text(path, _rows(kept, root, class_names))


def _rows(kept: Mapping[str, Iterable[Sample]], root: Path, class_names: Sequence[str] | None) -> Iterator[str]:
    for split, samples in kept.items():
        for sample in samples:
            image = os.path.relpath(str(sample.image), root)
            if image.split(os.sep)[0] == os.pardir:
                raise UserError(f"{sample.image}: is not below {root}; give as root a folder that holds all images")
            row = {"image": image.replace(os.sep, "/"), "captions": list(sample.captions), "split": split}
            if class_names is not None and sample.label is not None:
                row["label"] = class_names[sample.label]
            yield json.dumps(row, ensure_ascii=False) + "\n"
