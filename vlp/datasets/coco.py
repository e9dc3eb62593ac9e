"""COCO in the official layout: captions, and where they are there or asked for, categories, boxes and segmentations.

    annotations/{captions,instances}_{train,val}{2014,2017}.json     train2017/*.jpg   val2017/*.jpg
    annotations/panoptic_{train,val}2017.json                        annotations/panoptic_{train,val}2017/*.png

2014's splits have files named COCO_train2014_000000000009.jpg, and hold the same photos otherwise divided. The captions
of COCO's own test images are not public, so test is the official val, and val is held out from train. Keypoints are not
read. Lin et al., "Microsoft COCO", ECCV 2014; Chen et al., "Microsoft COCO Captions", 2015; cocodataset.org.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from vlp.data.annotation_files import clean_captions, objects_under_key, read_json, require_path
from vlp.data.boxes import Size, photo_size
from vlp.data.datamodule import DataModule
from vlp.data.images import ImageError
from vlp.data.issues import DataError, SkippedRecords
from vlp.data.view import read_class_map
from vlp.datasets.common.coco_instances import Instances, annotations_of_known_images, index_by_id, read_instances
from vlp.datasets.common.coco_panoptic import Panoptic, read_panoptic
from vlp.datasets.common.splits import drop_overlap, hold_out
from vlp.structures import Sample


class COCO(DataModule):
    """train, test: the official splits they are read from.  held_out: how many images of `train` form val; always the
    same ones, whatever the seed.  boxes: of objects, with the categories as their labels (crowds have none).
    panoptic: the picture of segments; its categories are `segment_names`.
    """

    # known after `setup`, with panoptic segmentations
    segment_names: tuple[str, ...] | None = None

    def __init__(
        self,
        *,
        train: str = "train2017",
        test: str = "val2017",
        held_out: int = 5000,
        boxes: bool = False,
        panoptic: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.official = {"train": train, "val": train, "test": test}
        self.held_out, self.boxes, self.panoptic = held_out, boxes, panoptic
        self._read: dict[str, list[Sample]] = {}

    def samples(self, split: str) -> list[Sample]:
        official = self.official[split]
        if official not in self._read:
            read = self._official(official, training=split != "test")
            self._read[official] = drop_overlap(read, official, self._read, name=self.name, faults=self.faults)
        samples = self._read[official]
        if split == "test":
            return samples
        return hold_out(samples, self.held_out, split, name=self.name, faults=self.faults)

    def _official(self, official: str, *, training: bool) -> list[Sample]:
        path, folder = self.root / "annotations" / f"captions_{official}.json", self.root / official
        images: dict[int, dict[str, Any]] = {}
        captions: dict[int, list[object]] = defaultdict(list)
        with self.faults.catch_errors():
            content = read_json(path, description=f"the captions of {self.name}")
            images = index_by_id(
                objects_under_key(content, "images", location=path), "image", place=path, faults=self.faults
            )
            every = index_by_id(
                objects_under_key(content, "annotations", location=path), "annotation", place=path, faults=self.faults
            )
            for image, annotation in annotations_of_known_images(
                every, images, "captions", place=path, faults=self.faults
            ):
                captions[image].append(annotation.get("caption"))
        with self.faults.catch_errors():
            require_path(folder, description=f"the images of {self.name}")
        instances, panoptic = self._read_instances_and_segments(
            official, {image: photo_size(images[image]) for image in images}
        )
        samples: list[Sample] = []
        with SkippedRecords(self.faults, path) as left_out:
            for image, record in images.items():
                with self.faults.catch_errors():
                    place = f"{path}: image {image}"
                    texts = clean_captions(captions[image], location=place, training=training, skipped=left_out)
                    seen = tuple(sorted(instances.category_indices.get(image, ())))
                    # in evaluation an image may be there for its categories alone
                    if not texts and (training or not seen) and left_out.skip_without_caption(place, training=training):
                        continue
                    file = self.resolve_path(folder, record.get("file_name"), location=place)
                    sample = Sample(id=image, sample=len(samples), image=file, captions=texts, categories=seen)
                    samples.append(self._with_places(sample, instances, panoptic, place=place))
        return samples

    def _read_instances_and_segments(self, official: str, sizes: dict[int, Size | None]) -> tuple[Instances, Panoptic]:
        annotations = self.root / "annotations"
        path, instances, panoptic = annotations / f"instances_{official}.json", Instances(), Panoptic()
        if path.exists() or self.boxes:  # without the file there are no categories
            instances = read_instances(path, sizes, boxes=self.boxes, faults=self.faults)
            self.class_names = instances.names or None
        if self.panoptic:
            panoptic = read_panoptic(annotations / f"panoptic_{official}.json", sizes, faults=self.faults)
            self.segment_names = panoptic.names or None
            self._folder = annotations / f"panoptic_{official}"
            self._sizes = sizes
        return instances, panoptic

    def _with_places(self, sample: Sample, instances: Instances, panoptic: Panoptic, *, place: str) -> Sample:
        if self.boxes:
            boxes, labels = instances.boxes.get(sample.id, ()), instances.labels.get(sample.id, ())
            sample = replace(sample, boxes=tuple(boxes), box_labels=tuple(labels))
        if not self.panoptic:
            return sample
        if sample.id not in panoptic.files:
            raise DataError("image without segmentation", f"{place} has no panoptic segmentation")
        picture = require_path(
            self.resolve_path(self._folder, panoptic.files[sample.id], location=place),
            description=f"the segmentation of {place}",
        )
        sample = replace(sample, panoptic=picture, segments=panoptic.segments[sample.id])
        if self.faults.collect:  # a run decodes it when it needs it
            try:
                read_class_map(sample, self._sizes[sample.id])
            except ImageError as error:
                raise DataError("segmentation cannot be read", str(error)) from error
        return sample
