"""COCO captions in the official layout, with the 80 categories of the instances file where it is there.

    annotations/{captions,instances}_{train,val}{2014,2017}.json     train2017/*.jpg   val2017/*.jpg

The captions of COCO's own test images are not public, so test is the official val, and val is held out from train.
Lin et al., "Microsoft COCO", ECCV 2014; Chen et al., "Microsoft COCO Captions", 2015; cocodataset.org.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from vlp.data.base import DataModule, hold_out
from vlp.data.files import clean_captions, existing, first_five, read_json, records
from vlp.structures import Sample


class COCO(DataModule):
    """train, test: the official splits they are read from.  held_out: how many images of `train` form val; always the
    same ones, whatever the seed.
    """

    def __init__(
        self, *, train: str = "train2017", test: str = "val2017", held_out: int = 5000, **loading: Any
    ) -> None:
        super().__init__(**loading)
        self.official = {"train": train, "val": train, "test": test}
        self.held_out = held_out
        self._read: dict[str, list[Sample]] = {}

    def samples(self, split: str) -> list[Sample]:
        official = self.official[split]
        if official not in self._read:
            self._read[official] = self._official(official, training=split != "test")
        samples = self._read[official]
        return samples if split == "test" else hold_out(samples, self.held_out, split, name=self.name)

    def _official(self, official: str, *, training: bool) -> list[Sample]:
        path = self.root / "annotations" / f"captions_{official}.json"
        content = read_json(path, what=f"the captions of {self.name}")
        images = by_id(records(content, "images", place=path), place=path)
        annotations = by_id(records(content, "annotations", place=path), place=path)
        captions: dict[int, list[object]] = defaultdict(list)
        for annotation in annotations.values():
            captions[annotation["image_id"]].append(annotation.get("caption"))
        unknown = [image for image in captions if image not in images]
        if unknown:
            warnings.warn(
                f"{path}: captions of {len(unknown)} unknown images are left out: {first_five(unknown)}", stacklevel=2
            )
        folder = existing(self.root / official, what=f"the images of {self.name}")
        categories = self._categories(self.root / "annotations" / f"instances_{official}.json")
        samples: list[Sample] = []
        for image, record in images.items():
            place = f"{path}: image {image}"
            texts = clean_captions(captions[image], place=place, training=training)
            if texts or not training:
                file = self.inside(folder, record.get("file_name"), place=place)
                seen = tuple(sorted(categories[image]))
                samples.append(Sample(id=image, sample=len(samples), image=file, captions=texts, categories=seen))
        return samples

    def _categories(self, path: Path) -> dict[int, set[int]]:
        """Classes that each image shows, counted without gaps in the order of their official ids."""
        shown: dict[int, set[int]] = defaultdict(set)
        if not path.exists():
            return shown
        content = read_json(path, what="the instances")
        names = by_id(records(content, "categories", place=path), place=path)
        index = {category: position for position, category in enumerate(sorted(names))}
        self.class_names = tuple(str(names[category]["name"]) for category in index)
        for annotation in records(content, "annotations", place=path):
            category = annotation.get("category_id")
            if category not in index:
                raise ValueError(f"{path}: annotation {annotation.get('id')} has the unknown category {category}")
            shown[annotation["image_id"]].add(index[category])
        return shown


def by_id(items: list[dict[str, Any]], *, place: Path) -> dict[int, dict[str, Any]]:
    counts = Counter(item.get("id") for item in items)
    twice = [key for key, count in counts.items() if count > 1 or not isinstance(key, int)]
    if twice:
        raise ValueError(f"{place}: ids that are missing or not unique: {first_five(twice)}")
    return {item["id"]: item for item in items}
