"""Caption data in the layout of Karpathy's `dataset_{coco,flickr30k,flickr8k}.json`, the split that papers report.

    {"images": [{"split": "train" | "restval" | "val" | "test", "filepath": "val2014", "filename": "x.jpg",
                 "imgid": 0, "cocoid": 1, "sentids": [..], "sentences": [{"raw": "..", "sentid": 0}, ..]}, ..]}

COCO's train 82,783 + restval 30,504 = 113,287 images, val 5,000, test 5,000; Flickr30k 29,000 / 1,014 / 1,000.
Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments", CVPR 2015; cs.stanford.edu/people/karpathy/deepimagesent.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from vlp.data.base import DataModule
from vlp.data.files import clean_captions, existing, first_five, read_json, records
from vlp.structures import Sample


class Karpathy(DataModule):
    """annotations, images: the file and the image folder under root.  restval: train on those images as well."""

    def __init__(self, *, annotations: str, images: str, restval: bool = False, **loading: Any) -> None:
        super().__init__(**loading)
        self.annotations, self.images, self.restval = annotations, images, restval
        self._listed: list[dict[str, Any]] | None = None

    def _records(self) -> list[dict[str, Any]]:
        if self._listed is None:
            path = self.root / self.annotations
            self._listed = records(read_json(path, what=f"the annotations of {self.name}"), "images", place=path)
            for number, record in enumerate(self._listed):
                missing = [key for key in ("split", "filename", "sentences") if key not in record]
                if missing or not ("cocoid" in record or "imgid" in record):
                    raise ValueError(f"{path}: images[{number}] lacks {', '.join(missing) or 'cocoid or imgid'}")
            for what, keys in (("id", map(image_id, self._listed)), ("file", map(relative_path, self._listed))):
                twice = [key for key, count in Counter(keys).items() if count > 1]
                if twice:
                    raise ValueError(
                        f"{path}: image {what} listed more than once, so splits may overlap: {first_five(twice)}"
                    )
        return self._listed

    def samples(self, split: str) -> list[Sample]:
        path, folder = (
            self.root / self.annotations,
            existing(self.root / self.images, what=f"the images of {self.name}"),
        )
        wanted = ("train", "restval") if split == "train" and self.restval else (split,)
        found: list[Sample] = []
        for number, record in enumerate(self._records()):
            if record["split"] not in wanted:
                continue
            place = f"{path}: images[{number}]"
            sentences = records(record, "sentences", place=path)
            captions = clean_captions((s.get("raw") for s in sentences), place=place, training=split == "train")
            if captions or split != "train":
                image = self.inside(folder, relative_path(record), place=place)
                found.append(Sample(id=image_id(record), sample=len(found), image=image, captions=captions))
        return found


def image_id(record: dict[str, Any]) -> int:
    return int(record["cocoid"] if "cocoid" in record else record["imgid"])


def relative_path(record: dict[str, Any]) -> str:
    folder = record.get("filepath")
    return f"{folder}/{record['filename']}" if folder else record["filename"]
