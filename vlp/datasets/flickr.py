"""Flickr8k and Flickr30k in their official layout: one caption a line, and a list of images for each split.

    1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress is climbing up a set of stairs .
    1000268201_693b08cb0e.jpg,A child in a pink dress is climbing up a set of stairs .      (the comma variant)

Split lists hold a file name a line, or an id alone as those of Flickr30k Entities do (29,783 / 1,000 / 1,000). Captions of
images in no list are left out: Flickr8k's own file has five of an image that does not exist.
Hodosh et al., JAIR 2013; Young et al., TACL 2014; Plummer et al., ICCV 2015.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, read_lines, require_path
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.image_ids import flickr_image_id
from vlp.data.issues import DataError, Faults, SkippedRecords, join_first_five
from vlp.structures import Sample


class Flickr(DataModule):
    """captions_file, images, splits: the caption file, the image folder and one list for each split, under root."""

    def __init__(self, *, captions_file: str, images: str, splits: Mapping[str, str], **loading: Any) -> None:
        super().__init__(**loading)
        self.captions_file, self.images = captions_file, images
        self.splits = {split: splits[split] for split in SPLITS}
        self._captions: dict[str, list[str]] = {}
        self._lists: dict[str, list[str]] | None = None

    def samples(self, split: str) -> list[Sample]:
        path, folder, training = self.root / self.captions_file, self.root / self.images, split == "train"
        listed = self._listed()[split]
        unknown = [file for file in listed if file not in self._captions]
        if unknown:
            message = f"{path}: no caption for {len(unknown)} images of the {split} list: {join_first_five(unknown)}"
            self.faults.error("image without caption", message, count=len(unknown))
        found: list[Sample] = []
        with SkippedRecords(self.faults, path) as left_out:
            for file in listed:
                if file not in self._captions:
                    continue
                with self.faults.catch_errors():
                    place = f"{path}: {file}"
                    captions = clean_captions(self._captions[file], location=place, training=training, skipped=left_out)
                    if not captions and left_out.skip_without_caption(place, training=training):
                        continue
                    image = self.resolve_path(folder, file, location=place)
                    found.append(Sample(id=flickr_image_id(file), sample=len(found), image=image, captions=captions))
        return found

    def _listed(self) -> dict[str, list[str]]:
        """The file names of each split, each once; the captions are read with them."""
        if self._lists is None:
            lists: dict[str, list[str]] = {split: [] for split in self.splits}
            with self.faults.catch_errors():
                require_path(self.root / self.images, description=f"the images of {self.name}")
            with self.faults.catch_errors():
                self._captions = read_captions(self.root / self.captions_file, faults=self.faults)
            for split, file in self.splits.items():
                with self.faults.catch_errors():
                    lines = read_lines(self.root / file, description=f"the {split} list of {self.name}")
                    names = (line.strip() for _, line in lines)
                    lists[split] = [name if Path(name).suffix else f"{name}.jpg" for name in names]
            self._lists = self._drop_repeated(lists)
        return self._lists

    def _drop_repeated(self, lists: dict[str, list[str]]) -> dict[str, list[str]]:
        """Each file where it is listed first."""
        first: dict[str, str] = {}
        kept: dict[str, list[str]] = {split: [] for split in lists}
        again: dict[str, list[str]] = {"file listed twice": [], "image in two splits": []}
        for split, names in lists.items():
            for name in names:
                if name in first:
                    again["file listed twice" if first[name] == split else "image in two splits"].append(name)
                else:
                    first[name] = split
                    kept[split].append(name)
        for kind, names in again.items():
            if names:
                message = f"images of {self.name} listed more than once in its splits: {join_first_five(names)}"
                self.faults.error(kind, message, count=len(names))
        unlisted = [file for file in self._captions if file not in first]
        if (
            unlisted and self.faults.collect
        ):  # nothing that a run need tell: Flickr8k has captions of 91 photos in no list
            message = (
                f"{self.root / self.captions_file}: captions of {len(unlisted)} images are in no split, and left out"
            )
            self.faults.warn("image in no split", f"{message}: {join_first_five(unlisted)}", count=len(unlisted))
        return kept


def read_captions(path: Path, faults: Faults | None = None) -> dict[str, list[str]]:
    """The captions of each file name, in the order of the file."""
    faults = faults or Faults()
    captions: dict[str, list[str]] = {}
    for number, line in read_lines(path, description="the caption file"):
        with faults.catch_errors():
            file, caption = _split_line(line, place=f"{path}, line {number}")
            if number > 1 or file != "image":
                captions.setdefault(re.sub(r"#\d+$", "", file.strip()), []).append(caption)
    return captions


def _split_line(line: str, *, place: str) -> tuple[str, str]:
    """File name and caption."""
    if "\t" in line:
        file, caption = line.split("\t", 1)
    else:
        file, _, caption = line.partition(",")  # a caption with commas of its own is not quoted in every copy
        if caption.startswith('"'):
            if caption.count('"') % 2:
                raise DataError("malformed line", f"{place}: the quote that opens here is not closed on this line")
            with suppress(csv.Error):  # "Hello," says a man: the quotes are the caption's own
                values = next(csv.reader([caption], strict=True))
                caption = values[0] if len(values) == 1 else caption
    if not file.strip() or (not caption.strip() and "\t" not in line and "," not in line):
        message = f"{place}: expected a file name, a tab or comma, and a caption: {line[:60]!r}"
        raise DataError("malformed line", message)
    return file, caption
