"""Images sorted into one folder a class, as ImageNet's: `root/train/<class>/*.jpg`, or only `root/<class>/*.jpg`.

There are no captions: such data measure zero-shot classification, with the folders' names as class names. Hidden names are
passed over; other files that are no images, and images beside the class folders, are counted as left out.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import MissingFile, require_path
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.images import IMAGE_EXTENSIONS, is_hidden
from vlp.data.issues import SkippedRecords, join_first_five
from vlp.datasets.common.class_lists import read_class_list
from vlp.datasets.common.class_names import clean_label, report_equal_names
from vlp.datasets.common.splits import named_splits, samples_of_split
from vlp.structures import Sample
from vlp.system.errors import UserError


class ClassFolders(DataModule):
    """splits: the folder of each split under root; "." is root itself, null none.  held_out: how many training images
    form val where it has no folder.  class_names_file: for folders named by codes, see vlp/datasets/common/class_lists.py.
    numbered: folders are named by numbers from 0, the positions of their classes in that file (ImageNet V2).
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        held_out: int = 0,
        class_names_file: str | None = None,
        numbered: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.splits = named_splits(splits, setting="data.splits")
        if held_out and self.splits["val"]:
            raise UserError("data.held_out is for data without a val folder: set it to 0, or data.splits.val=null")
        if numbered and class_names_file is None:
            raise UserError("data.numbered=true needs the classes in their order: set data.class_names_file")
        self.held_out, self.class_names_file, self.numbered = held_out, class_names_file, numbered
        self._folders_of_classes: list[str] | None = None
        self._read: dict[str, list[Sample]] = {}

    def _folders(self, split: str) -> dict[str, list[Path]]:
        """The folders of each class, several where their names only look equal."""
        place = require_path(self.root / str(self.splits[split]), description=f"the {split} folder of {self.name}")
        folders: dict[str, list[Path]] = {}
        for name in sorted(entry.name for entry in os.scandir(place) if entry.is_dir()):
            if not is_hidden(Path(name)):
                folders.setdefault(clean_label(name), []).append(place / name)
        return folders

    def _classes(self) -> list[str]:
        """The folders of the classes, in the order of their labels."""
        if self._folders_of_classes is None:
            found: set[str] = set()
            for split in SPLITS:
                if self.splits[split]:
                    with self.faults.catch_errors():
                        found |= set(self._folders(split))
            folders = sorted(found, key=_number_or_name if self.numbered else None)
            with self.faults.catch_errors():
                if not folders:
                    raise MissingFile(
                        f"{self.root} holds no class folders; expected <split>/<class>/<image>, see data.splits"
                    )
            names = {folder: folder.replace("_", " ") for folder in folders}
            if self.class_names_file is not None:
                with self.faults.catch_errors():
                    names |= self._names(self.root / self.class_names_file, folders)
            report_equal_names(names.values(), location=self.root, faults=self.faults)
            self.class_names = tuple(names[folder] for folder in folders)
            self._folders_of_classes = folders
        return self._folders_of_classes

    def _names(self, path: Path, folders: list[str]) -> dict[str, str]:
        listed = read_class_list(path)
        if self.numbered:  # folder "17" is the 17th class of the list, from 0
            listed = {str(number): name for number, name in enumerate(listed.values())}
        lacking = [folder for folder in folders if not isinstance(listed.get(folder), str)]
        if lacking:
            message = f"{path} names no class for the folders {join_first_five(lacking)}"
            self.faults.error("class without a name", message, count=len(lacking))
        return {folder: listed[folder] for folder in folders if folder not in lacking}

    def samples(self, split: str) -> list[Sample]:
        read = functools.partial(self._from, classes=self._classes())
        return samples_of_split(split, self.held_out, self._read, read, name=self.name, faults=self.faults)

    def _from(self, split: str, classes: list[str]) -> list[Sample]:
        if self.splits[split] is None:
            return []
        place = self.root / str(self.splits[split])
        found: list[tuple[Path, int]] = []
        with SkippedRecords(self.faults, place) as left_out:
            for file in sorted(place.iterdir()) if place.is_dir() else ():
                if _is_image(file) and file.is_file():
                    left_out.add("image in no class folder", file.name)
            folders = self._folders(split) if place.is_dir() else {}
            for label, name in enumerate(classes):
                before = len(found)
                for file in (file for folder in folders.get(name, ()) for file in self._files(folder, left_out)):
                    if not _is_image(file):
                        left_out.add("file with no suffix of an image", file.relative_to(place))
                        continue
                    with self.faults.catch_errors():
                        relative = file.relative_to(self.root).as_posix()
                        found.append((self.resolve_path(self.root, relative, location=str(place)), label))
                if len(found) == before and self.faults.collect:  # a class may be in other splits alone
                    left_out.add("class without images", name)
        first_id = SPLITS.index(split) << 40  # ids must differ between splits
        return [
            Sample(id=first_id + index, sample=index, image=image, label=label)
            for index, (image, label) in enumerate(found)
        ]

    def _files(self, folder: Path, left_out: SkippedRecords) -> list[Path]:
        """All files below a folder, sorted, but for hidden ones and those below hidden folders."""
        found: list[Path] = []
        visited: set[str] = set()
        for parent, folders, names in os.walk(folder, followlinks=self.follow_symlinks):
            if (real := os.path.realpath(parent)) in visited:
                folders.clear()  # a link to a folder above it
                continue
            visited.add(real)
            folders[:] = [name for name in folders if not is_hidden(Path(name))]
            links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
            for name in links if not self.follow_symlinks else ():
                left_out.add("link to a folder, needs data.follow_symlinks=true", os.path.join(parent, name))
            found += [Path(parent, name) for name in names if not is_hidden(Path(name))]
        return sorted(found)


def _is_image(file: Path) -> bool:
    return file.suffix.lower()[1:] in IMAGE_EXTENSIONS and not is_hidden(Path(file.name))


def _number_or_name(folder: str) -> tuple[int, str]:
    """Numbers in their order, "2" before "10"; other names after them."""
    return (int(folder), folder) if folder.isascii() and folder.isdecimal() and len(folder) < 20 else (1 << 80, folder)
