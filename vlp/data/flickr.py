"""Flickr8k and Flickr30k in their official layout: one caption a line, and a list of images for each split.

    1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress is climbing up a set of stairs .
    1000268201_693b08cb0e.jpg,A child in a pink dress is climbing up a set of stairs .      (the comma variant)

Split lists hold a file name a line, or a bare id as those of Flickr30k Entities do. Captions of images in no list are
left out: Flickr8k's own file has five of an image that does not exist.
Hodosh et al., JAIR 2013; Young et al., TACL 2014; Plummer et al., ICCV 2015.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from vlp.data.base import DataModule
from vlp.data.files import clean_captions, existing, first_five, read_lines
from vlp.structures import Sample


class Flickr(DataModule):
    """captions_file, images, splits: the caption file, the image folder and one list for each split, under root."""

    def __init__(self, *, captions_file: str, images: str, splits: Mapping[str, str], **loading: Any) -> None:
        super().__init__(**loading)
        self.captions_file, self.images = captions_file, images
        self.splits = {split: splits[split] for split in ("train", "val", "test")}
        self._captions: dict[str, list[str]] = {}

    def samples(self, split: str) -> list[Sample]:
        path, folder = (
            self.root / self.captions_file,
            existing(self.root / self.images, what=f"the images of {self.name}"),
        )
        self._captions = self._captions or read_captions(path)
        ids = {file: position for position, file in enumerate(self._captions)}
        listed = {name: self._listed(name) for name in self.splits}
        twice = [file for file, count in Counter(chain(*listed.values())).items() if count > 1]
        if twice:
            raise ValueError(f"images of {self.name} listed more than once in its splits: {first_five(twice)}")
        unknown = [file for file in listed[split] if file not in ids]
        if unknown:
            raise ValueError(f"{path}: no caption for {len(unknown)} images of the {split} list: {first_five(unknown)}")
        found: list[Sample] = []
        for file in listed[split]:
            captions = clean_captions(self._captions[file], place=f"{path}: {file}", training=split == "train")
            if captions or split != "train":
                image = self.inside(folder, file, place=f"{path}: {file}")
                found.append(Sample(id=ids[file], sample=len(found), image=image, captions=captions))
        return found

    def _listed(self, split: str) -> list[str]:
        lines = [
            line.strip()
            for _, line in read_lines(self.root / self.splits[split], what=f"the {split} list of {self.name}")
        ]
        return [line if Path(line).suffix else f"{line}.jpg" for line in lines]


def read_captions(path: Path) -> dict[str, list[str]]:
    """The captions of each file name, in the order of the file."""
    captions: dict[str, list[str]] = {}
    for number, line in read_lines(path, what="the caption file"):
        if "\t" in line:
            file, caption = line.split("\t", 1)
        else:
            file, _, caption = line.partition(",")  # a caption with commas of its own is not quoted in every copy
            caption = next(csv.reader([caption]))[0] if caption.startswith('"') else caption
        if number == 1 and file == "image":
            continue
        file = re.sub(r"#\d+$", "", file.strip())
        if not caption.strip() and "\t" not in line and "," not in line:
            raise ValueError(
                f"{path}, line {number}: expected a file name, a tab or comma, and a caption: {line[:60]!r}"
            )
        captions.setdefault(file, []).append(caption)
    return captions
