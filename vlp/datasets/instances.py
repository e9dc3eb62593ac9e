"""Boxes and masks of your own photos, in COCO's form: a file of instances and a folder of photos for each split.

    instances_train.json   {"images": [{"id", "file_name", "width", "height"}, ..], "annotations": .., "categories": ..}
    train/*.jpg            see vlp/datasets/common/coco_instances.py for the annotations

Photos without any object stay. Boxes and masks are of the photos as they are stored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_json, require_path
from vlp.data.boxes import photo_size
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError
from vlp.datasets.common.coco_instances import Instances, list_images, parse_instances
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import named_splits, samples_of_split, source_split
from vlp.structures import Sample
from vlp.system.errors import UserError


class InstanceFiles(DataModule):
    """annotations, images: of each split, the file and the folder of photos under root; null = there is none.  held_out: how
    many training photos form val where it has no file.  masks: of the boxes.  categories: names of those that are used, novel:
    of those among them without boxes in training (open-vocabulary detection); with either, photos that show none are left out.
    """

    def __init__(
        self,
        *,
        annotations: Mapping[str, str | None],
        images: Mapping[str, str | None],
        held_out: int = 0,
        masks: bool = False,
        categories: Sequence[str] | None = None,
        novel: Sequence[str] | str = (),
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.annotations = named_splits(annotations, setting="data.annotations")
        self.images = named_splits(images, setting="data.images")
        if held_out and self.annotations["val"]:
            raise UserError("data.held_out is for data without a val file: set it to 0, or data.annotations.val=null")
        self.held_out, self.masks = held_out, masks
        self.categories = None if categories is None else tuple(categories)
        self.novel = novel if isinstance(novel, str) else tuple(novel)
        self._read: dict[str, list[Sample]] = {}

    def samples(self, split: str) -> list[Sample]:
        return samples_of_split(split, self.held_out, self._read, self._from, name=self.name, faults=self.faults)

    def ground_truth(self, split: str) -> Path:
        source = source_split(split, self.held_out)
        if self.annotations[source] is None:
            raise UserError(f"{self.name} has no {split} split: set data.annotations.{split}")
        return require_path(
            self.root / str(self.annotations[source]), description=f"the {split} instances of {self.name}"
        )

    # -- for another data set of this form to define ---------------------------------------------------------------

    def photo_path(self, record: dict[str, Any], split: str, *, place: str) -> Path:
        """Of an image's record."""
        return self.resolve_path(self.root / str(self.images[split]), record.get("file_name"), location=place)

    def category_names(self, content: Mapping[str, Any]) -> None:
        """Changes the names of a file's categories to those that texts are made of, in place."""

    def novel_names(self, content: Mapping[str, Any]) -> Collection[str]:
        if isinstance(self.novel, str):
            raise UserError(f"data.novel={self.novel!r}: give a list of category names")
        return self.novel

    def more_fields(self, record: dict[str, Any], instances: Instances) -> dict[str, Any]:
        """Further fields of a sample."""
        return {}

    # --------------------------------------------------------------------------------------------------------------

    def _from(self, split: str) -> list[Sample]:
        if self.annotations[split] is None:
            return []
        path = self.root / str(self.annotations[split])
        images: dict[int, dict[str, Any]] = {}
        content: Any = None
        with self.faults.catch_errors():
            content = read_json(path, description=f"the {split} instances of {self.name}")
            images = list_images(content, place=path, faults=self.faults)
            self.category_names(content)
        if not images:
            return []
        instances = parse_instances(
            content, path, {image: photo_size(record) for image, record in images.items()}, boxes=True, masks=self.masks,
            categories=self.categories, hidden=self.novel_names(content) if split == "train" else (), faults=self.faults,
        )  # fmt: skip
        self._set_categories(instances, path)
        samples: list[Sample] = []
        for image, record in images.items():
            with self.faults.catch_errors():
                seen = tuple(sorted(instances.category_indices.get(image, ())))
                if not seen and (self.categories is not None or (self.novel and split == "train")):
                    continue
                file = self.photo_path(record, split, place=f"{path}: image {image}")
                report_other_size(file, photo_size(record), faults=self.faults)
                samples.append(
                    Sample(
                        id=image, sample=len(samples), image=file, categories=seen,
                        **instances.things[image].sample_fields(), **self.more_fields(record, instances),
                    )
                )  # fmt: skip
        return samples

    def _set_categories(self, instances: Instances, path: Path) -> None:
        """Raises DataError if they differ from those of another split."""
        if self.category_ids is not None and (self.category_ids, self.class_names) != (instances.ids, instances.names):
            with self.faults.catch_errors():
                raise DataError("categories differ", f"{path}: its categories are not those of the other splits")
            return
        self.class_names, self.category_ids = instances.names or None, instances.ids or None
