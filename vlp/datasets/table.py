"""A user's own data: a CSV (with a header) or JSONL file with an image path a row, and captions, a split or a class.

    image,caption,split                          {"image": "a/1.jpg", "captions": ["a dog", "a brown dog"]}
    a/1.jpg,a dog,train

Rows of the same image are joined. In JSONL the caption may be a list.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, read_json_lines, read_text
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.issues import DataError, Faults, SkippedRecords, join_first_five
from vlp.structures import Sample


@dataclass(slots=True)
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
            needed = [c for role, c in self.columns.items() if c is not None and (role != "split" or split is None)]
            with self.faults.catch_errors():
                for place, row in table_rows(self.root / file, self.faults) if file else ():
                    with self.faults.catch_errors():
                        self._add(entries, row, needed, split, place)
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            both = [image for image in entries[first] if image in entries[second]]
            if both:
                message = f"{self.root}: {len(both)} images are in {first} and in {second}: {join_first_five(both)}"
                self.faults.error("image in two splits", message, count=len(both))
            for image in both:
                del entries[second][image]
        return entries

    def _add(
        self,
        entries: dict[str, dict[str, _Entry]],
        row: dict[str, Any],
        needed: list[str],
        split: str | None,
        place: str,
    ) -> None:
        label_column = self.columns["label"]
        lacking = [c for c in needed if row.get(c) is None or (c == label_column and not str(row[c]).strip())]
        if lacking:
            fix = "name your columns with data.image, data.caption, …, or give one file a split in data.table"
            message = f"{place}: no value for {', '.join(lacking)} (there is {', '.join(map(str, row))}); {fix}"
            raise DataError("missing key", message)
        name, image = row[self.columns["split"]] if split is None else split, row[self.columns["image"]]
        if name not in SPLITS:
            raise DataError("unknown split", f"{place}: {name!r} is no split; use {', '.join(SPLITS)}")
        if not isinstance(image, str):
            raise DataError("not a file name", f"{place}: {str(image)[:80]!r} is no file name")
        image = os.path.normpath(image)  # however it is written, one file is one image
        entry = entries[name].get(image)
        if entry is None:
            entry = entries[name][image] = _Entry(place)
        if self.columns["label"]:
            label = str(row[self.columns["label"]])
            if entry.label not in (None, label):
                message = f"{place}: the image has the label {label!r} here and {entry.label!r} in {entry.place}"
                raise DataError("image with two labels", message)
            entry.label = label
        if self.columns["caption"]:
            value = row[self.columns["caption"]]
            entry.captions += value if isinstance(value, list) else [value]

    def samples(self, split: str) -> list[Sample]:
        if self._entries is None:
            self._entries = self._read()
        labels = sorted({e.label for group in self._entries.values() for e in group.values() if e.label is not None})
        self.class_names = tuple(labels) or None
        found: list[Sample] = []
        training = split == "train"
        first_id = SPLITS.index(split) << 40  # ids must differ between splits
        folder = self.root / self.images
        with SkippedRecords(self.faults, self.root) as left_out:
            for number, (file, entry) in enumerate(self._entries[split].items()):
                with self.faults.catch_errors():
                    captions = clean_captions(entry.captions, location=entry.place, training=training, skipped=left_out)
                    unlabelled = not captions and entry.label is None
                    if unlabelled and left_out.skip_without_caption(entry.place, training=training):
                        continue
                    image = self.resolve_path(folder, file, location=entry.place)
                    label = None if entry.label is None else labels.index(entry.label)
                    found.append(
                        Sample(id=first_id + number, sample=number, image=image, captions=captions, label=label)
                    )
        return found


def table_rows(path: Path, faults: Faults | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with "file, line n"."""
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _csv_rows(path, faults or Faults(), delimiter="," if kind == ".csv" else "\t")
    elif kind in (".jsonl", ".ndjson"):
        yield from read_json_lines(path, description="the table", faults=faults or Faults())
    else:
        raise DataError("not a table", f"{path}: a table is a .csv, .tsv or .jsonl file")


def _csv_rows(path: Path, faults: Faults, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # not splitlines(): captions may hold characters such as U+2028 that it takes for line ends
    reader = csv.DictReader(
        io.StringIO(read_text(path, description="the table"), newline=""), strict=True, delimiter=delimiter
    )
    while True:
        row: dict[str, Any] | None = None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.error("malformed line", f"{path}, line {reader.line_num}: {error}")
        place = f"{path}, line {reader.line_num}"
        if row is not None and None in row:
            faults.error("malformed line", f"{place}: more values than columns; quote values with commas")
        elif row is not None:
            yield place, row
