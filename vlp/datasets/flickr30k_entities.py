"""Flickr30k Entities in the official layout: the phrases of Flickr30k's captions, and the boxes that each is about.

    Sentences/36979.txt      five lines such as "[/EN#1/people A group of friends] sit around [/EN#2/other a table] ."
    Annotations/36979.xml    <object>: one or several <name>, the numbers behind EN#, with a <bndbox>, or <scene>1</scene> or
                             <nobndbox>1</nobndbox> for what has none
    {train,val,test}.txt     photos by their number: 29,783 / 1,000 / 1,000

A phrase may have several boxes; papers count one of them ("any") or the box around all ("merged"). Phrases without a box,
of scenes and of what is not visible (number 0), say nothing about places and are left out, and so are sentences without any
other. Boxes are counted from 1, the last pixel included. Plummer et al., ICCV 2015 and IJCV 2017;
github.com/BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, read_lines, require_path
from vlp.data.boxes import BOX_FAULTS, Corners, clip_box
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import flickr_image_id
from vlp.data.issues import DataError, SkippedRecords
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import named_splits
from vlp.datasets.common.xml_files import corners_of, photo_size_of, read_xml
from vlp.structures import Sample

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\]]+)+) ([^\]]*)\]")
SENTENCES = 100  # more than a photo has


class Flickr30kEntities(DataModule):
    """A sample is a sentence with its phrases as captions and their boxes.

    annotations: the folder, under root, of Sentences and Annotations.  images: of the photos.  splits: of each split, the list
    of its photos under `annotations`; null = there is none.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | None],
        annotations: str = ".",
        images: str = "flickr30k-images",
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.annotations, self.images = annotations, images
        self.splits = named_splits(splits, setting="data.splits")

    def samples(self, split: str) -> list[Sample]:
        if self.splits[split] is None:
            return []
        base = self.root / self.annotations
        path = base / str(self.splits[split])
        with self.faults.catch_errors():
            require_path(self.root / self.images, description=f"the photos of {self.name}")
        samples: list[Sample] = []
        known: set[str] = set()
        with self.faults.catch_errors(), SkippedRecords(self.faults, path) as left_out:
            for number, line in read_lines(path, description=f"the {split} list of {self.name}"):
                name, place = line.strip().removesuffix(".jpg"), f"{path}, line {number}"
                if not name:
                    continue
                with self.faults.catch_errors():
                    if name in known:
                        raise DataError("photo listed twice", f"{place}: {name} is listed twice")
                    known.add(name)
                    samples += self._photo(base, name, place, left_out, training=split == "train")
        return samples

    def _photo(self, base: Path, name: str, place: str, left_out: SkippedRecords, *, training: bool) -> list[Sample]:
        image = self.resolve_path(self.root / self.images, f"{name}.jpg", location=place)
        boxes = self._boxes(self.resolve_path(base / "Annotations", f"{name}.xml", location=place), image, left_out)
        sentences = self.resolve_path(base / "Sentences", f"{name}.txt", location=place)
        found: list[Sample] = []
        photo = flickr_image_id(f"{name}.jpg")
        for number, sentence in read_lines(sentences, description=f"the sentences of {name}"):
            if sentence.count("[/EN#") != len(_PHRASE.findall(sentence)):
                message = f"{sentences}, line {number}: a phrase must be written [/EN#<number>/<type> <words>]"
                raise DataError("malformed line", message)
            phrases = [(words, boxes[entity]) for entity, _, words in _PHRASE.findall(sentence) if entity in boxes]
            texts = clean_captions(
                (words for words, _ in phrases),
                location=f"{sentences}, line {number}",
                training=training,
                skipped=left_out,
            )
            if len(texts) < len(phrases):  # a phrase of no words, which training passes over
                phrases = [(words, places) for words, places in phrases if words.strip()]
            if texts:
                found.append(
                    Sample(
                        id=photo, sample=(photo % (1 << 45)) * SENTENCES + number, image=image, captions=texts,
                        boxes=tuple(box for _, places in phrases for box in places),
                        box_captions=tuple(index for index, (_, places) in enumerate(phrases) for _ in places),
                        as_stored=True,
                    )
                )  # fmt: skip
        return found

    def _boxes(self, path: Path, image: Path, left_out: SkippedRecords) -> dict[str, list[Corners]]:
        """Of each entity that has boxes."""
        annotation = read_xml(path, description=f"the boxes of {path.stem}")
        size = photo_size_of(annotation, location=path)
        report_other_size(image, size, faults=self.faults)
        found: dict[str, list[Corners]] = defaultdict(list)
        for index, thing in enumerate(annotation.findall("object")):
            box = thing.find("bndbox")
            if box is None:
                continue
            try:
                corners = clip_box(corners_of(box), size)
            except DataError as error:
                if error.kind not in BOX_FAULTS:
                    raise
                left_out.add(error.kind, f"{path}: object {index + 1}")
                continue
            for entity in thing.findall("name"):
                found[(entity.text or "").strip()].append(corners)
        return dict(found)
