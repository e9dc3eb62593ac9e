"""A user's own data: a CSV (with a header) or JSONL file with an image path a row, and captions, a split or a class.

    image,caption,split                          {"image": "a/1.jpg", "captions": ["a dog", "a brown dog"]}
    a/1.jpg,a dog,train

Rows of the same image are joined. In JSONL the caption may be a list.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.data.base import SPLITS, DataModule
from vlp.data.files import clean_captions, first_five, read_lines, read_text
from vlp.structures import Sample


@dataclass
class _Entry:
    place: str
    captions: list[object] = field(default_factory=list)
    label: str | None = None


class Table(DataModule):
    """table: one file with a split column, or the file of each split, under root.  images: folder of the image paths.

    image, caption, split, label: names of the columns; caption and label may be null.
    """

    def __init__(
        self,
        *,
        table: str | Mapping[str, str | None],
        images: str = ".",
        image: str = "image",
        caption: str | None = "caption",
        split: str = "split",
        label: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.files = table if isinstance(table, str) else {name: table.get(name) for name in SPLITS}
        self.images = images
        self.columns: dict[str, Any] = {"image": image, "caption": caption, "split": split, "label": label}
        self._entries: dict[str, dict[str, _Entry]] | None = None

    def _read(self) -> dict[str, dict[str, _Entry]]:
        """The entries of each split, by image."""
        files = [(None, self.files)] if isinstance(self.files, str) else list(self.files.items())
        entries: dict[str, dict[str, _Entry]] = {split: {} for split in SPLITS}
        for split, file in files:
            for place, row in rows(self.root / file) if file else ():
                needed = [c for role, c in self.columns.items() if c is not None and (role != "split" or split is None)]
                lacking = [column for column in needed if row.get(column) is None]
                if lacking:
                    fix = "name your columns with data.image, data.caption, …, or give one file a split in data.table"
                    raise ValueError(
                        f"{place}: no value for {', '.join(lacking)} (there is {', '.join(map(str, row))}); {fix}"
                    )
                name = row[self.columns["split"]] if split is None else split
                if name not in entries:
                    raise ValueError(f"{place}: {name!r} is no split; use {', '.join(SPLITS)}")
                entry = entries[name].setdefault(row[self.columns["image"]], _Entry(place))
                if self.columns["caption"]:
                    value = row[self.columns["caption"]]
                    entry.captions += value if isinstance(value, list) else [value]
                if self.columns["label"]:
                    label = str(row[self.columns["label"]])
                    if entry.label not in (None, label):
                        raise ValueError(
                            f"{place}: the image has the label {label!r} here and {entry.label!r} in {entry.place}"
                        )
                    entry.label = label
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            both = [image for image in entries[first] if image in entries[second]]
            if both:
                raise ValueError(f"{self.root}: {len(both)} images are in {first} and in {second}: {first_five(both)}")
        return entries

    def samples(self, split: str) -> list[Sample]:
        if self._entries is None:
            self._entries = self._read()
        labels = sorted({e.label for group in self._entries.values() for e in group.values() if e.label is not None})
        self.class_names = tuple(labels) or None
        found = []
        first_id = SPLITS.index(split) << 40  # ids must differ between splits
        for number, (file, entry) in enumerate(self._entries[split].items()):
            captions = clean_captions(entry.captions, place=entry.place, training=split == "train")
            if not captions and entry.label is None and split == "train":
                continue
            image = self.inside(self.root / self.images, file, place=entry.place)
            label = None if entry.label is None else labels.index(entry.label)
            found.append(Sample(id=first_id + number, sample=number, image=image, captions=captions, label=label))
        return found


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with "file, line n"."""
    if path.suffix == ".csv":
        reader = csv.DictReader(read_text(path, what="the table").splitlines(keepends=True), strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more values than columns; quote values with commas"
                    )
                yield f"{path}, line {reader.line_num}", row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    elif path.suffix in (".jsonl", ".ndjson"):
        for number, line in read_lines(path, what="the table"):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f'{path}, line {number}: expected an object such as {{"image": …, "caption": …}}')
            yield f"{path}, line {number}", row
    else:
        raise ValueError(f"{path}: a table is a .csv or a .jsonl file")
