"""Caption data in the layout of Karpathy's `dataset_{coco,flickr30k,flickr8k}.json`, the split that papers report.

    {"dataset": "coco", "images": [{"split": "train" | "restval" | "val" | "test", "filepath": "val2014",
     "filename": "x.jpg", "imgid": 0, "cocoid": 1, "sentids": [..], "sentences": [{"raw": "..", "sentid": 0}, ..]}, ..]}

COCO's train 82,783 + restval 30,504 = 113,287 images, val 5,000, test 5,000; Flickr30k 29,000 / 1,014 / 1,000.
Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments", CVPR 2015; cs.stanford.edu/people/karpathy/deepimagesent.
"""

from __future__ import annotations

import os
from typing import Any

from vlp.data.annotation_files import clean_captions, objects_under_key, parse_id, read_json, require_path
from vlp.data.datamodule import SPLITS, DataModule
from vlp.data.image_ids import flickr_image_id
from vlp.data.issues import DataError, SkippedRecords
from vlp.structures import Sample


class Karpathy(DataModule):
    """annotations, images: the file and the image folder under root.  restval: train on those images as well."""

    def __init__(self, *, annotations: str, images: str, restval: bool = False, **loading: Any) -> None:
        super().__init__(**loading)
        self.annotations, self.images, self.restval = annotations, images, restval
        self._listed: list[tuple[str, dict[str, Any]]] | None = None  # with "images[number]"
        self._of_flickr = False

    def _records(self) -> list[tuple[str, dict[str, Any]]]:
        if self._listed is None:
            entries: list[dict[str, Any]] = []
            kept: list[tuple[str, dict[str, Any]]] = []
            path = self.root / self.annotations
            with self.faults.catch_errors():
                require_path(self.root / self.images, description=f"the images of {self.name}")
            with self.faults.catch_errors():
                content = read_json(path, description=f"the annotations of {self.name}")
                entries = objects_under_key(content, "images", location=path)
                self._of_flickr = str(content.get("dataset")).startswith("flickr")
            with SkippedRecords(self.faults, path) as left_out:
                for number, record in enumerate(entries):
                    with self.faults.catch_errors():
                        self._check_record(record, f"{path}: images[{number}]", left_out)
                        kept.append((f"images[{number}]", record))
            for kind, what, key in (("duplicate image id", "id", _id_of), ("file listed twice", "file", _file_of)):
                message = f"{path}: image {what} listed more than once, so splits may overlap"
                kept = self.faults.drop_duplicates(kept, key, kind=kind, message=message)
            self._listed = kept
        return self._listed

    def _check_record(self, record: dict[str, Any], place: str, left_out: SkippedRecords) -> None:
        missing = [key for key in ("split", "filename", "sentences") if key not in record]
        if missing or not ("cocoid" in record or "imgid" in record):
            raise DataError("missing key", f"{place} lacks {', '.join(missing) or 'cocoid or imgid'}")
        if not isinstance(record["filename"], str):
            raise DataError("not a file name", f"{place}: {str(record['filename'])[:80]!r} is no file name")
        parse_id(image_id(record), id_name="cocoid or imgid", location=place)
        if record["split"] not in (*SPLITS, "restval"):
            left_out.add("unknown split", place)

    def samples(self, split: str) -> list[Sample]:
        path, folder, training = self.root / self.annotations, self.root / self.images, split == "train"
        source_splits = ("train", "restval") if training and self.restval else (split,)
        found: list[Sample] = []
        with SkippedRecords(self.faults, path) as left_out:
            for where, record in self._records():
                if record["split"] not in source_splits:
                    continue
                with self.faults.catch_errors():
                    place = f"{path}: {where}"
                    raw = (sentence.get("raw") for sentence in objects_under_key(record, "sentences", location=place))
                    captions = clean_captions(raw, location=place, training=training, skipped=left_out)
                    if not captions and left_out.skip_without_caption(place, training=training):
                        continue
                    image = self.resolve_path(folder, relative_path(record), location=place)
                    number = flickr_image_id(record["filename"]) if self._of_flickr else int(image_id(record))
                    found.append(Sample(id=number, sample=len(found), image=image, captions=captions))
        return found


def image_id(record: dict[str, Any]) -> Any:
    return record["cocoid"] if "cocoid" in record else record["imgid"]


def relative_path(record: dict[str, Any]) -> str:
    folder = record.get("filepath")
    return f"{folder}/{record['filename']}" if folder else record["filename"]


def _id_of(entry: tuple[str, dict[str, Any]]) -> int:
    return int(image_id(entry[1]))


def _file_of(entry: tuple[str, dict[str, Any]]) -> str:
    return os.path.normpath(relative_path(entry[1]))
