"""COCO in the official layout: captions, and where they are there or asked for, categories, boxes, masks and segmentations.

    annotations/{captions,instances}_{train,val}{2014,2017}.json     train2017/*.jpg   val2017/*.jpg
    annotations/panoptic_{train,val}2017.json                        annotations/panoptic_{train,val}2017/*.png

2014's splits have files named COCO_train2014_000000000009.jpg, and hold the same photos otherwise divided. The captions
of COCO's own test images are not public, so test is the official val, and val is held out from train. Keypoints are not
read. Boxes, masks and segments are of the photos as they are stored: with them, EXIF's orientation is not applied.
Lin et al., "Microsoft COCO", ECCV 2014; Chen et al., "Microsoft COCO Captions", 2015; cocodataset.org.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, objects_under_key, read_json, require_path
from vlp.data.boxes import Size, photo_size
from vlp.data.datamodule import DataModule
from vlp.data.images import ImageError
from vlp.data.issues import DataError, SkippedRecords
from vlp.data.pixel_labels import read_class_map
from vlp.datasets.common.coco_instances import (
    Instances,
    annotations_of_known_images,
    index_by_id,
    list_images,
    read_instances,
)
from vlp.datasets.common.coco_panoptic import PanopticAnnotations, read_panoptic
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import drop_overlap, hold_out
from vlp.structures import Sample
from vlp.system.errors import UserError


@dataclass
class _Listed:
    """The photos of a split, as the file at `path` lists them, and their captions, by id, if it `has_captions`."""

    path: Path
    has_captions: bool
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    captions: dict[int, list[object]] = field(default_factory=lambda: defaultdict(list))


class COCO(DataModule):
    """train, test: the official splits they are read from.  held_out: how many images of `train` form val; always the
    same ones, whatever the seed.  texts: the captions; false where boxes or segments are all that is used. With them a photo
    without a caption is no training sample.
    boxes: of objects, with the categories as their labels; photos without any object stay.  Their file alone is enough: where
    the captions' is missing, there are none.  masks: of the boxes.
    categories: names of those that are used, novel: of those among them without boxes in train and val, which training
    must not see (open-vocabulary detection); photos that show none of the others are left out.  null = all, and none.
    panoptic: the picture of segments; its categories are `segment_names`.
    """

    def __init__(
        self,
        *,
        train: str = "train2017",
        test: str = "val2017",
        held_out: int = 5000,
        texts: bool = True,
        boxes: bool = False,
        masks: bool = False,
        categories: Sequence[str] | None = None,
        novel: Sequence[str] = (),
        panoptic: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if masks and not boxes:
            raise UserError("data.masks=true gives masks to boxes: set data.boxes=true as well")
        if not (texts or boxes or panoptic):
            raise UserError("data.texts=false leaves nothing to read: set data.boxes=true or data.panoptic=true")
        self.official = {"train": train, "val": train, "test": test}
        self.held_out, self.texts, self.boxes, self.masks, self.panoptic = held_out, texts, boxes, masks, panoptic
        self.categories, self.novel = None if categories is None else tuple(categories), tuple(novel)
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

    def ground_truth(self, split: str) -> Path:
        """Of the official split, which holds val's photos as well as train's, and all 80 categories."""
        path = self.root / "annotations" / f"instances_{self.official[split]}.json"
        return require_path(path, description=f"the instances of {self.name}")

    def _list(self, official: str) -> _Listed:
        """From the captions where they are wanted and there, else from the first file that lists the photos."""
        annotations = self.root / "annotations"
        path = annotations / f"captions_{official}.json"
        has_captions = self.texts and (path.exists() or not (self.boxes or self.panoptic))
        if not has_captions:
            path = annotations / f"{'instances' if self.boxes else 'panoptic'}_{official}.json"
        listed = _Listed(path, has_captions)
        with self.faults.catch_errors():
            content = read_json(path, description=f"the {path.name.split('_')[0]} of {self.name}")
            listed.images = list_images(content, place=path, faults=self.faults)
            if has_captions:
                annotated = objects_under_key(content, "annotations", location=path)
                every = index_by_id(annotated, "annotation", place=path, faults=self.faults)
                for image, annotation in annotations_of_known_images(
                    every, listed.images, "captions", place=path, faults=self.faults
                ):
                    listed.captions[image].append(annotation.get("caption"))
        return listed

    def _official(self, official: str, *, training: bool) -> list[Sample]:
        listed, folder = self._list(official), self.root / official
        with self.faults.catch_errors():
            require_path(folder, description=f"the images of {self.name}")
        instances, panoptic = self._read_instances_and_segments(
            official, {image: photo_size(record) for image, record in listed.images.items()}, training=training
        )
        samples: list[Sample] = []
        with SkippedRecords(self.faults, listed.path) as left_out:
            for image, record in listed.images.items():
                with self.faults.catch_errors():
                    place = f"{listed.path}: image {image}"
                    texts = clean_captions(listed.captions[image], location=place, training=training, skipped=left_out)
                    seen = tuple(sorted(instances.category_indices.get(image, ())))
                    if self.categories is not None and not seen:
                        continue
                    # in evaluation an image may be there for its categories alone
                    lacking = listed.has_captions and not texts and (training or not seen)
                    if lacking and left_out.skip_without_caption(place, training=training):
                        continue
                    file = self.resolve_path(folder, record.get("file_name"), location=place)
                    sample = Sample(id=image, sample=len(samples), image=file, captions=texts, categories=seen)
                    samples.append(self._with_places(sample, instances, panoptic, place=place))
        return samples

    def _read_instances_and_segments(
        self, official: str, sizes: dict[int, Size | None], *, training: bool
    ) -> tuple[Instances, PanopticAnnotations]:
        annotations = self.root / "annotations"
        path, instances, panoptic = annotations / f"instances_{official}.json", Instances(), PanopticAnnotations()
        if path.exists() or self.boxes or self.categories is not None:  # without the file there are no categories
            instances = read_instances(
                path, sizes, boxes=self.boxes, masks=self.masks, categories=self.categories,
                hidden=self.novel if training else (), faults=self.faults,
            )  # fmt: skip
            self.class_names, self.category_ids = instances.names or None, instances.ids or None
        if self.panoptic:
            panoptic = read_panoptic(annotations / f"panoptic_{official}.json", sizes, faults=self.faults)
            self.segment_names = panoptic.names or None
            self.segment_ids, self.segment_things = panoptic.ids or None, panoptic.things or None
            self._folder = annotations / f"panoptic_{official}"
        self._sizes = sizes
        return instances, panoptic

    def _with_places(
        self, sample: Sample, instances: Instances, panoptic: PanopticAnnotations, *, place: str
    ) -> Sample:
        if self.boxes:
            report_other_size(sample.image, self._sizes.get(sample.id), faults=self.faults)
            sample = replace(sample, **instances.things[sample.id].sample_fields())
        if not self.panoptic:
            return sample
        if sample.id not in panoptic.files:
            raise DataError("image without segmentation", f"{place} has no panoptic segmentation")
        picture = require_path(
            self.resolve_path(self._folder, panoptic.files[sample.id], location=place),
            description=f"the segmentation of {place}",
        )
        sample = replace(sample, panoptic=picture, segments=panoptic.segments[sample.id], as_stored=True)
        if self.faults.collect:  # a run decodes it when it needs it
            try:
                read_class_map(sample, self._sizes[sample.id])
            except ImageError as error:
                raise DataError("segmentation cannot be read", str(error)) from error
        return sample
