"""A folder of photos and a folder of label maps: ADE20K, VOC, COCO-Stuff, Cityscapes, CamVid and your own, by YAML.

A label map is an image file of the photo's size with one value for each pixel, grey or an index of a palette. Photos and label
maps have the same names but for their ends: `aachen/aachen_000000_000019` + `_leftImg8bit.png` and + `_gtFine_labelIds.png`. They
are of the photo as its file stores it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import MissingFile, read_lines, require_path
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.images import ImageError, image_size, is_hidden
from vlp.data.issues import DataError, SkippedRecords, join_first_five
from vlp.data.pixel_labels import read_label_map
from vlp.data.view import VOID_CLASS
from vlp.datasets.common.splits import named_splits, samples_of_split
from vlp.structures import Sample
from vlp.system.errors import UserError


class LabelMaps(DataModule):
    """images, labels: of each split, the folder of its photos and that of its label maps, below root; null = none.
    lists: of each split, a text file of names without their ends, one in each line; null = every photo of the folder.
    image_end, label_end: what follows a name.
    names: the classes, as a list or a file below root: `<value>: <name>` or a table with the columns Idx and Name.
    values: the value of each class in the label maps; null = as the file numbers them, or 0, 1, …; plus `offset`.
    unused: values of the file of names that no pixel has.  All other values are ignored.
    held_out: how many training photos form val where it has no folder.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, str | None],
        labels: Mapping[str, str | None],
        names: Sequence[str] | str,
        lists: Mapping[str, str | None] | None = None,
        values: Sequence[int] | None = None,
        offset: int = 0,
        unused: Sequence[int] = (),
        image_end: str = ".jpg",
        label_end: str = ".png",
        held_out: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.images, self.labels = (
            named_splits(images, setting="data.images"),
            named_splits(labels, setting="data.labels"),
        )
        self.lists = named_splits(lists, setting="data.lists")
        self.ends, self.held_out = (image_end, label_end), held_out
        self.names, self.values, self.offset, self.unused = names, values, offset, frozenset(unused)
        if held_out and self.images["val"]:
            raise UserError("data.held_out is for data without a val folder: set it to 0, or data.images.val=null")
        for split in SPLITS:
            if bool(self.images[split]) != bool(self.labels[split]):
                raise UserError(f"data.images.{split} and data.labels.{split}: give both folders, or null for both")
        self._label_classes: bytes | None = None
        self._read: dict[str, list[Sample]] = {}

    def _classes(self) -> bytes:
        """The class of each of the 256 values of a label map."""
        if self._label_classes is None:
            if isinstance(self.names, str):
                numbered = _read_names(self.root / self.names)
            else:
                numbered = dict(enumerate(self.names)) if self.values is None else self._given_values()
            by_value = {number + self.offset: name for number, name in numbered.items()}
            by_value = {value: name for value, name in by_value.items() if value >= 0 and value not in self.unused}
            wrong = [value for value in by_value if value >= VOID_CLASS]
            if wrong or not by_value:
                raise UserError(
                    f"data.names of {self.name}: {len(by_value)} classes with values up to {max(by_value, default=0)}; "
                    f"a label map has 1 to {VOID_CLASS} classes, of values below {VOID_CLASS}"
                )
            self.segment_ids, self.segment_names = tuple(by_value), tuple(by_value.values())
            table = bytearray([VOID_CLASS] * 256)
            for label, value in enumerate(by_value):
                table[value] = label
            self._label_classes = bytes(table)
        return self._label_classes

    def _given_values(self) -> dict[int, str]:
        values = list(self.values or ())
        if len(values) != len(self.names) or len(set(values)) < len(values):
            raise UserError(
                f"data.values of {self.name}: give each of its {len(self.names)} classes a value of its own"
            )
        return dict(zip(values, self.names, strict=True))

    def samples(self, split: str) -> list[Sample]:
        return samples_of_split(split, self.held_out, self._read, self._from, name=self.name, faults=self.faults)

    def _from(self, split: str) -> list[Sample]:
        if self.images[split] is None:
            return []
        table = b""
        with self.faults.catch_errors():
            table = self._classes()
        photos, labels = (self.root / str(folders[split]) for folders in (self.images, self.labels))
        for folder, kind in ((photos, "photos"), (labels, "label maps")):
            require_path(folder, description=f"the {split} folder of {kind} of {self.name}")
        first_id = SPLITS.index(split) << 40  # ids must differ between splits
        found: list[Sample] = []
        with SkippedRecords(self.faults, labels) as left_out:
            for name in self._listed(split, photos, left_out):
                with self.faults.catch_errors():
                    photo, label = (
                        self.resolve_path(folder, name + end, location=f"{split} of {self.name}")
                        for folder, end in zip((photos, labels), self.ends, strict=True)
                    )
                    if not self._listings.is_file(str(label)):
                        raise DataError("photo without a label map", f"{photo} has no label map {label}")
                    number = len(found)
                    sample = Sample(
                        id=first_id + number, sample=number, image=photo, label_map=label, label_classes=table
                    )  # fmt: skip
                    if self.faults.collect:
                        _check(sample)
                    found.append(sample)
        if not found and not self.faults.collect:
            raise MissingFile(
                f"{photos} has no photo whose name ends in {self.ends[0]}: see data.image_end and data.lists"
            )
        return found

    def _listed(self, split: str, photos: Path, left_out: SkippedRecords) -> list[str]:
        """Names without their ends, relative to the folders."""
        if self.lists[split] is not None:
            path = self.root / str(self.lists[split])
            lines = [
                (number, line.strip()) for number, line in read_lines(path, description=f"the list of {split} photos")
            ]
            message = f"{path}: names that are listed more than once"
            lines = self.faults.drop_duplicates(lines, lambda line: line[1], kind="duplicate name", message=message)
            return [name for _, name in lines]
        found = []
        for file in _files(photos, self.follow_symlinks):
            if file.endswith(self.ends[0]):
                found.append(file[: -len(self.ends[0])])
            elif self.images[split] == self.labels[split] and file.endswith(self.ends[1]):
                continue  # the label maps are beside the photos
            else:
                left_out.add("file of another end", file)
        return found


def _check(sample: Sample) -> None:
    """Raises DataError if the label map cannot be read or has another size than the photo."""
    assert sample.label_map is not None
    try:
        read_label_map(sample.label_map, image_size(sample.image))
    except DataError:
        raise
    except ImageError as error:
        raise DataError("segmentation cannot be read", str(error)) from error


def _files(folder: Path, follow_symlinks: bool) -> list[str]:
    """Files below a folder, relative to it, sorted, without hidden ones."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=follow_symlinks):
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names if not is_hidden(Path(name))]
    return sorted(found)


def _read_names(path: Path) -> dict[int, str]:
    """The first name of each class by its number, from lines `1: person` (COCO-Stuff's labels.txt), or from a table with tabs
    and the columns Idx and Name, whose names are lists with commas (ADE20K's objectInfo150.txt)."""
    lines = list(read_lines(path, description="the file of class names"))
    columns = [column.strip() for column in lines[0][1].split("\t")] if lines else []
    table = {"Idx", "Name"} <= set(columns)
    rows = [
        (
            number,
            (cells := line.split("\t"))[columns.index("Idx")],
            ",".join(cells[columns.index("Name") :]).split(",")[0],
        )
        if table
        else (number, *line.partition(":")[::2])
        for number, line in lines[int(table) :]
    ]
    return dict(_numbered(rows, path))


def _numbered(rows: Iterable[tuple[int, str, str]], path: Path) -> Iterable[tuple[int, str]]:
    known: set[int] = set()
    wrong = []
    for line, number, name in rows:
        if number.strip().isdecimal() and name.strip() and int(number) not in known:
            known.add(int(number))
            yield int(number), " ".join(name.split())
        else:
            wrong.append(line)
    if wrong:
        raise DataError(
            "not a class name", f"{path}: lines {join_first_five(wrong)} are not a new number with a class name"
        )
