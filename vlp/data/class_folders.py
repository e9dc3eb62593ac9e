"""Images sorted into one folder a class, as ImageNet's: `root/train/<class>/*.jpg`, or only `root/<class>/*.jpg`.

There are no captions: such data measure zero-shot classification, with the folders' names as class names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.data.base import SPLITS, DataModule, hold_out
from vlp.data.files import existing, first_five, read_json
from vlp.structures import Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class ClassFolders(DataModule):
    """splits: the folder of each split under root; "." is root itself, null none.  held_out: how many training images
    form val where it has no folder.  class_names_file: JSON {folder: name}, for folders named by codes.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        held_out: int = 0,
        class_names_file: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.splits = {split: splits.get(split) for split in SPLITS}
        if held_out and self.splits["val"]:
            raise ValueError("data.held_out is for data without a val folder: set it to 0, or data.splits.val=null")
        self.held_out, self.class_names_file = held_out, class_names_file

    def _folders(self, split: str) -> list[str]:
        place = existing(self.root / str(self.splits[split]), what=f"the {split} folder of {self.name}")
        return sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith("."))

    def _classes(self) -> list[str]:
        folders = sorted({folder for split in SPLITS if self.splits[split] for folder in self._folders(split)})
        if not folders:
            raise FileNotFoundError(
                f"{self.root} holds no class folders; expected <split>/<class>/<image>, see data.splits"
            )
        names = {folder: folder.replace("_", " ") for folder in folders}
        if self.class_names_file is not None:
            path = self.root / self.class_names_file
            names = read_json(path, what="the file of class names")
            lacking = [folder for folder in folders if not isinstance(names.get(folder), str)]
            if lacking:
                raise ValueError(f"{path} names no class for the folders {first_five(lacking)}")
        self.class_names = tuple(names[folder] for folder in folders)
        return folders

    def samples(self, split: str) -> list[Sample]:
        held_out = split == "val" and self.held_out > 0
        source = "train" if held_out else split
        classes = self._classes()
        if self.splits[source] is None:
            return []
        place, found = self.root / str(self.splits[source]), []
        for label, folder in enumerate(classes):
            for file in sorted(Path(place, folder).rglob("*")):
                if file.suffix.lower() in SUFFIXES:
                    image = self.inside(self.root, file.relative_to(self.root).as_posix(), place=str(place))
                    found.append((image, label))
        first_id = SPLITS.index(source) << 40  # ids must differ between splits
        samples = [
            Sample(id=first_id + index, sample=index, image=image, label=label)
            for index, (image, label) in enumerate(found)
        ]
        return (
            hold_out(samples, self.held_out, split, name=self.name) if self.held_out and source == "train" else samples
        )
