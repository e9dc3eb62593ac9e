"""Multi30k, task 1: sentences about the photos of Flickr30k and their translations (Elliott et al., W16-3210; files of
github.com/multi30k/dataset).

    root/task1/raw/{train,val,test_2016_flickr,…}.{en,de,fr,cs}[.gz]     a sentence a line
    root/task1/image_splits/{train,val,test_2016_flickr,…}.txt           the photo of each line; mscoco's have #id behind it
    photos/1000092795.jpg                                                Flickr30k's files, or Flickr8k's 1000092795_0a1b2c3d4e.jpg

A sample's question is the source, its only answer the translation. Texts: CC BY-NC-SA 4.0; photos: Flickr's terms.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vlp import distributed
from vlp.data.annotation_files import path_below_root, path_or_gzip, read_text, require_path
from vlp.data.colour_words import STEMS, mask_colours
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import flickr_image_id
from vlp.data.issues import DataError
from vlp.structures import NO_IMAGE, Sample
from vlp.system.errors import UserError

LANGUAGES = tuple(STEMS)
FIRST_SAMPLE = {"train": 0, "val": 1_000_000, "test": 2_000_000}
WITHOUT_PHOTO = ("text", "leave_out")


class Multi30k(DataModule):
    """source, target: languages, of en, de, fr, cs.  test_split: test_2016_flickr, test_2017_flickr, test_2017_mscoco or
    test_2018_flickr.  photos: their folder; None = texts alone.  without_photo: what becomes of a line whose photo is not there:
    text = it is a text alone, leave_out = it is left out; how many is printed.
    masked_colours: whether each colour word of the source is replaced by [v].
    """

    def __init__(
        self,
        *,
        source: str = "en",
        target: str = "de",
        test_split: str = "test_2016_flickr",
        photos: str | Path | None = None,
        without_photo: str = "text",
        masked_colours: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        for key, language in (("source", source), ("target", target)):
            if language not in LANGUAGES:
                raise UserError(f"data.{key}={language}: choose from {', '.join(LANGUAGES)}")
        if source == target:
            raise UserError(f"data.source and data.target are both {source}: choose two languages")
        if without_photo not in WITHOUT_PHOTO:
            raise UserError(f"data.without_photo={without_photo}: choose {' or '.join(WITHOUT_PHOTO)}")
        if photos is None and without_photo == "leave_out":
            raise UserError("data.without_photo=leave_out leaves out all lines without data.photos: give their folder")
        self.source_language, self.target_language, self.test_split = source, target, test_split
        self.photos = None if photos is None else Path(photos).expanduser()
        self.without_photo, self.masked_colours = without_photo, masked_colours
        self._photo_files: dict[int, str] | None = None

    def samples(self, split: str) -> list[Sample]:
        name = self.test_split if split == "test" else split
        sources, targets = (self._lines(name, language) for language in (self.source_language, self.target_language))
        names = self._photo_names(name)
        for language, lines in ((self.target_language, targets), ("photo", names)):
            if len(lines) != len(sources):
                raise DataError(
                    "wrong number of lines",
                    f"{self.root / 'task1'}: {name} has {len(sources)} lines of {self.source_language} and {len(lines)} of "
                    f"{language}; copy the official files again",
                )
        found, lacking = [], 0
        for number, (text, translation, photo) in enumerate(zip(sources, targets, names, strict=True)):
            image = self._find_photo(photo, f"{name}.txt, line {number + 1}")
            lacking += image is None
            if image is None and self.without_photo == "leave_out":
                continue
            source = mask_colours(text, self.source_language) if self.masked_colours else text
            found.append(
                Sample(
                    id=flickr_image_id(photo),
                    sample=FIRST_SAMPLE[split] + number,
                    image=image or NO_IMAGE,
                    question=source,
                    answers=(translation,),
                )
            )
        self._report(split, name, len(names), lacking)
        return found

    def _report(self, split: str, name: str, lines: int, lacking: int) -> None:
        if self.photos is None or not lacking or distributed.rank():
            return
        what = "are texts alone" if self.without_photo == "text" else "are left out"
        message = (
            f"{self.name} {split} ({name}): {lines - lacking:,} of {lines:,} lines have their photo in {self.photos}"
        )
        print(f"{message}; the others {what} (data.without_photo)", file=sys.stderr)

    def _lines(self, name: str, language: str) -> list[str]:
        path = path_or_gzip(self.root / "task1" / "raw" / f"{name}.{language}")
        if not path.exists():
            raise UserError(
                f"{self.name} has no {language} for {name}: there is no {path}[.gz]; Czech exists for train, val, "
                "test_2016_flickr and test_2018_flickr"
            )
        text = read_text(path, description=f"the {language} of {name}")
        lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
        empty = next((number for number, line in enumerate(lines, 1) if not line), None)
        if empty is not None:
            raise DataError("empty line", f"{path}, line {empty}: is empty; every line is a sentence")
        return lines

    def _photo_names(self, name: str) -> list[str]:
        path = self.root / "task1" / "image_splits" / f"{name}.txt"
        text = read_text(path, description=f"the photos of {name}")
        return [line.strip().partition("#")[0] for line in text.removesuffix("\n").split("\n")]

    def _find_photo(self, name: str, location: str) -> Path | None:
        """A photo of this name, or of the same number of Flickr."""
        if self.photos is None:
            return None
        if self._photo_files is None:
            require_path(self.photos, description=f"the photos of {self.name}", fix="set data.photos, or null")
            self._photo_files = {flickr_image_id(path.name): path.name for path in sorted(self.photos.iterdir())}
        file = self._photo_files.get(flickr_image_id(name))
        if file is None:
            return None
        return path_below_root(self.photos, file, location=location, follow_symlinks=self.follow_symlinks)
