"""A user's own data: a table with an image a row, and captions, a split or a class.

    image,caption,split                          {"image": "a/1.jpg", "captions": ["a dog", "a brown dog"]}
    a/1.jpg,a dog,train

CSV and TSV with a header, JSONL, JSON (a list of objects), each also as .gz; Parquet, Arrow and a folder that Hugging Face's
`datasets` has saved (common/arrow_tables.py). Rows of the same image are joined. But for CSV, a caption may be a list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, path_or_gzip, strip_root
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.issues import DataError, Faults, SkippedRecords, join_first_five
from vlp.datasets.common.arrow_tables import ARROW_SUFFIXES, arrow_rows, is_datasets_folder, saved_splits
from vlp.datasets.common.class_names import clean_label, report_equal_names
from vlp.datasets.common.csv_rows import csv_rows
from vlp.datasets.common.json_rows import json_rows
from vlp.datasets.common.splits import named_splits
from vlp.structures import Member, Sample

CACHE = "~/.cache/vlp/tables"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
SAVED_SPLITS = {**{name: name for name in SPLITS}, "validation": "val", "valid": "val", "dev": "val"}


@dataclass(slots=True)
class _Entry:
    location: str
    image: str | Member  # a path as the table has it
    captions: list[object] = field(default_factory=list)
    label: str | None = None


class Table(DataModule):
    """table: one file with a split column, or the file of each split, under root; a name may be a pattern with * or ?.
    images: folder of the image paths.  cache: folder for what is unpacked of Parquet files with images in them.

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
        cache: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.files = table if isinstance(table, str) else named_splits(table, setting="data.table")
        self.images = images
        self.columns: dict[str, Any] = {"image": image, "caption": caption, "split": split, "label": label}
        self.cache = Path(cache or os.environ.get("VLP_CACHE") or CACHE)
        self._entries: dict[str, dict[str, _Entry]] | None = None

    def _files(self) -> Iterator[tuple[str | None, Path]]:
        """Each file with the split of all its rows; None where they have a column for it."""
        for split, name in [(None, self.files)] if isinstance(self.files, str) else self.files.items():
            if name is None:
                continue
            matches = [self.root / name]
            if set(name) & set("*?") and not matches[0].exists():
                matches = [Path(match) for match in sorted(glob(os.path.join(escape(str(self.root)), name)))]
            if not matches:
                raise DataError("missing file", f"{self.root}: no table is called {name}; correct data.table")
            for path in matches:
                saved = saved_splits(path) if split is None and path.is_dir() else {}
                yield from self._saved(path, saved) if saved else [(split, path)]

    def _saved(self, folder: Path, saved: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
        """The splits of a folder of `datasets` that are called as ours or validation; others are left out."""
        with SkippedRecords(self.faults, folder) as left_out:
            for name, path in saved.items():
                if name in SAVED_SPLITS:
                    yield SAVED_SPLITS[name], path
                else:
                    left_out.add("split of another name", name)

    def _read(self) -> dict[str, dict[str, _Entry]]:
        """The entries of each split, by image."""
        entries: dict[str, dict[str, _Entry]] = {split: {} for split in SPLITS}
        with self.faults.catch_errors():
            for split, file in self._files():
                roles = [role for role in self.columns if role != "split" or split is None]
                needed = [self.columns[role] for role in roles if self.columns[role] is not None]
                with self.faults.catch_errors():
                    for location, row in self._rows(file, needed):
                        with self.faults.catch_errors():
                            self._add(entries, row, needed, split, location)
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            both = [image for image in entries[first] if image in entries[second]]
            if both:
                message = f"{self.root}: {len(both)} images are in {first} and in {second}: {join_first_five(both)}"
                self.faults.error("image in two splits", message, count=len(both))
            for image in both:
                del entries[second][image]
        return entries

    def _rows(self, file: Path, columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        if file.suffix.lower() in ARROW_SUFFIXES or is_datasets_folder(file):
            return arrow_rows(file, image=self.columns["image"], columns=columns, cache=self.cache)
        return table_rows(file, self.faults)

    def _add(
        self,
        entries: dict[str, dict[str, _Entry]],
        row: dict[str, Any],
        needed: list[str],
        split: str | None,
        location: str,
    ) -> None:
        caption, label_column = self.columns["caption"], self.columns["label"]
        lacking = [
            name
            for name in needed
            if name not in row
            or (row[name] is None and name != caption)
            or (name == label_column and not clean_label(row[name]))
        ]
        if lacking:
            fix = "name your columns with data.image, data.caption, …, or give one file a split in data.table"
            message = f"{location}: no value for {', '.join(lacking)} (there is {', '.join(map(str, row))}); {fix}"
            raise DataError("missing key", message)
        name, image = row[self.columns["split"]] if split is None else split, row[self.columns["image"]]
        if name not in SPLITS:
            raise DataError("unknown split", f"{location}: {name!r} is no split; use {', '.join(SPLITS)}")
        if not isinstance(image, (str, Member)):
            raise DataError("not a file name", f"{location}: {str(image)[:80]!r} is no file name")
        # however it is written, one file is one image
        key = str(image) if isinstance(image, Member) else self._normalized(image)
        entry = entries[name].get(key)
        if entry is None:
            entry = entries[name][key] = _Entry(location, image)
        if label_column:
            label = clean_label(row[label_column])
            if entry.label not in (None, label):
                message = f"{location}: the image has the label {label!r} here and {entry.label!r} in {entry.location}"
                raise DataError("image with two labels", message)
            entry.label = label
        if caption:
            entry.captions += row[caption] if isinstance(row[caption], list) else [row[caption]]

    def _normalized(self, image: str) -> str:
        """The path relative to the folder of the images."""
        inside = strip_root(self.root, image) if image.startswith("/") else None
        return os.path.normpath(image if inside is None else os.path.relpath(inside, self.images))

    def samples(self, split: str) -> list[Sample]:
        if self._entries is None:
            self._entries = self._read()
        labels = sorted({e.label for group in self._entries.values() for e in group.values() if e.label is not None})
        if self.class_names is None:
            report_equal_names(labels, location=f"{self.root}: {self.columns['label']}", faults=self.faults)
        self.class_names = tuple(labels) or None
        found: list[Sample] = []
        training = split == "train"
        first_id = SPLITS.index(split) << 40  # ids must differ between splits
        folder = self.root / self.images
        with SkippedRecords(self.faults, self.root) as left_out:
            for number, entry in enumerate(self._entries[split].values()):
                with self.faults.catch_errors():
                    captions = clean_captions(
                        entry.captions, location=entry.location, training=training, skipped=left_out
                    )
                    unlabelled = not captions and entry.label is None
                    if unlabelled and left_out.skip_without_caption(entry.location, training=training):
                        continue
                    image = (
                        self.resolve_path(folder, entry.image, location=entry.location)
                        if isinstance(entry.image, str)
                        else entry.image
                    )
                    label = None if entry.label is None else labels.index(entry.label)
                    found.append(
                        Sample(id=first_id + number, sample=number, image=image, captions=captions, label=label)
                    )
        return found


def table_rows(path: Path, faults: Faults | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a text file after "file, line n" or, in JSON, "file: [n]"."""
    faults = faults or Faults()
    path = path_or_gzip(path)
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind in DELIMITERS:
        return csv_rows(path, faults, delimiter=DELIMITERS[kind])
    if kind in JSON_SUFFIXES:
        return json_rows(path, description="the table", faults=faults)
    known = ", ".join([*DELIMITERS, *JSON_SUFFIXES])
    message = (
        f"{path}: a table is a {known} file (also .gz), {', '.join(ARROW_SUFFIXES)} or a folder saved by `datasets`"
    )
    raise DataError("not a table", message)
