"""PASCAL VOC's boxes in the official layout, and any other photos that are annotated in its XML.

    VOC2012/JPEGImages/2007_000027.jpg
    VOC2012/Annotations/2007_000027.xml       <annotation><size><width>, <height>; <object>: <name>, <difficult>,
                                              <bndbox>: <xmin>, <ymin>, <xmax>, <ymax>, counted from 1, the last included
    VOC2012/ImageSets/Main/{train,val,trainval}.txt    names, one a line

A difficult object is neither found nor missed in VOC's evaluation. Here it is a crowd: training passes over it, and in the
evaluation, by COCO's rules, detections inside it are not counted. `ground_truth` writes the boxes in COCO's form. COCO's
AP50 is VOC's figure but for its 101 steps of recall (VOC 2007 had 11, later years all). Parts of people are not read.
Everingham et al., IJCV 2010 and 2015; host.robots.ox.ac.uk/pascal/VOC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_lines
from vlp.data.boxes import BOX_FAULTS, Size, clip_box
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import image_id_from_path
from vlp.data.issues import DataError, SkippedRecords
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import named_splits, samples_of_split
from vlp.datasets.common.written_instances import cache_folder, write_instances
from vlp.datasets.common.xml_files import corners_of, photo_size_of, read_xml, text_of
from vlp.structures import Sample
from vlp.system.errors import UserError


class VOC(DataModule):
    """splits: of each split, the lists of its photos as "<folder>/<list>": VOC2012/train is
    root/VOC2012/ImageSets/Main/train.txt; several are joined, null = there is none.  held_out: how many training photos form
    val where it has no list.  classes: the names that count, in their order; their official ids are 1, 2, …
    suffix: of the photos.  cache: the folder of the file that `ground_truth` writes; null = $VLP_CACHE, else
    ~/.cache/vlp/instances.
    """

    def __init__(
        self,
        *,
        splits: Mapping[str, str | Sequence[str] | None],
        classes: Sequence[str],
        held_out: int = 0,
        suffix: str = ".jpg",
        cache: str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        given = named_splits(splits, setting="data.splits")
        self.splits = {name: [lists] if isinstance(lists, str) else list(lists or ()) for name, lists in given.items()}
        if held_out and self.splits["val"]:
            raise UserError("data.held_out is for data without a val list: set it to 0, or data.splits.val=null")
        self.class_names, self.category_ids = tuple(classes), tuple(range(1, len(classes) + 1))
        self.held_out, self.suffix, self.cache = held_out, suffix, cache_folder(cache)
        self._read: dict[str, list[Sample]] = {}
        self._sizes: dict[int, Size] = {}

    def samples(self, split: str) -> list[Sample]:
        return samples_of_split(split, self.held_out, self._read, self._of_split, name=self.name, faults=self.faults)

    def _of_split(self, split: str) -> list[Sample]:
        return [sample for name in self.splits[split] for sample in self._from(name)]

    def ground_truth(self, split: str) -> Path:
        samples, names, ids = self.samples(split), self.class_names or (), self.category_ids or ()
        return write_instances(samples, self._sizes, names, ids, folder=self.cache, name=f"{self.name}-{split}")

    def _from(self, name: str) -> list[Sample]:
        folder, _, listed = name.rpartition("/")
        base = self.root / folder
        path = base / "ImageSets" / "Main" / f"{listed}.txt"
        found: dict[str, Sample] = {}
        with self.faults.catch_errors(), SkippedRecords(self.faults, path) as left_out:
            for number, line in read_lines(path, description=f"the list {name} of {self.name}"):
                words, place = line.split(), f"{path}, line {number}"
                with self.faults.catch_errors():
                    if not words:
                        continue
                    if words[0] in found:
                        raise DataError("photo listed twice", f"{place}: {words[0]} is listed twice")
                    found[words[0]] = self._sample(base, words[0], place, left_out)
        return list(found.values())

    def _sample(self, base: Path, name: str, place: str, left_out: SkippedRecords) -> Sample:
        image = self.resolve_path(base / "JPEGImages", f"{name}{self.suffix}", location=place)
        file = self.resolve_path(base / "Annotations", f"{name}.xml", location=place)
        annotation = read_xml(file, description=f"the boxes of {name}")
        size = photo_size_of(annotation, location=file)
        report_other_size(image, size, faults=self.faults)
        boxes, labels, difficult = [], [], []
        for index, thing in enumerate(annotation.findall("object")):
            location = f"{file}: object {index + 1}"
            try:
                boxes.append(clip_box(corners_of(thing.find("bndbox")), size))
            except DataError as error:
                if error.kind not in BOX_FAULTS:
                    raise
                left_out.add(error.kind, location)
                continue
            label = text_of(thing, "name")
            if label not in (self.class_names or ()):
                raise DataError("unknown category", f"{location}: {label!r} is none of data.classes")
            labels.append((self.class_names or ()).index(label))
            difficult.append(text_of(thing, "difficult") == "1")
        number = image_id_from_path(f"{base.name}/JPEGImages/{name}{self.suffix}")
        self._sizes[number] = size
        return Sample(
            id=number, sample=number, image=image, boxes=tuple(boxes), box_labels=tuple(labels), box_crowds=tuple(difficult),
            categories=tuple(sorted(set(labels))), as_stored=True,
        )  # fmt: skip
