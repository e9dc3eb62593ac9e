"""ObjectNet: 50,000 photos of 313 kinds of objects in unusual places and poses, of which 113 are classes of ImageNet.

    images/alarm_clock/*.png                      each with a red frame of 2 pixels, which is cut off
    mappings/folder_to_objectnet_label.json       {"alarm_clock": "Alarm clock", ..}
    mappings/objectnet_to_imagenet_1k.json        {"Alarm clock": "analog clock; digital clock", ..}

A kind may be several classes of ImageNet, and any of them is right. So a sample has `categories`, the classes are those of
ImageNet that some kind is, and a model's best class counts if it is among them, as in the official evaluation; kinds that
are no class of ImageNet are left out. Its licence forbids tuning any parameter on it: there is only a test split.
Barbu et al., NeurIPS 2019; objectnet.dev.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import MissingFile, read_json, require_path
from vlp.data.datamodule import DataModule
from vlp.data.images import IMAGE_EXTENSIONS, is_hidden
from vlp.data.issues import DataError, SkippedRecords
from vlp.datasets.common.class_lists import first_name
from vlp.datasets.common.class_names import report_equal_names
from vlp.structures import Sample

BORDER = 2  # pixels


class ObjectNet(DataModule):
    """images, mappings: folders under root.  border: of each photo, in pixels, is cut off."""

    def __init__(
        self, *, images: str = "images", mappings: str = "mappings", border: int = BORDER, **loading: Any
    ) -> None:
        super().__init__(**loading)
        self.images, self.mappings, self.border = images, mappings, border

    def samples(self, split: str) -> list[Sample]:
        if split != "test":
            return []
        classes = self._classes_of_folders()
        names = sorted({name for found in classes.values() for name in found})
        self.class_names = tuple(map(first_name, names)) or None
        report_equal_names(map(first_name, names), location=self.root, faults=self.faults)
        position = {name: index for index, name in enumerate(names)}
        place = self.root / self.images
        samples: list[Sample] = []
        with self.faults.catch_errors(), SkippedRecords(self.faults, place) as left_out:
            require_path(place, description=f"the photos of {self.name}")
            for folder in sorted(
                entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith(".")
            ):
                if folder not in classes:
                    left_out.add("kind that is no class of ImageNet", folder)
                    continue
                categories = tuple(sorted(position[name] for name in classes[folder]))
                for file in sorted(os.listdir(place / folder)):
                    if is_hidden(Path(file)) or Path(file).suffix.lower()[1:] not in IMAGE_EXTENSIONS:
                        continue
                    with self.faults.catch_errors():
                        image = self.resolve_path(place, f"{folder}/{file}", location=str(place))
                        number = len(samples)
                        samples.append(
                            Sample(id=number, sample=number, image=image, categories=categories, border=self.border)
                        )
        if not samples and not self.faults.issues:
            with self.faults.catch_errors():
                raise MissingFile(f"{place} holds no photo of a class of ImageNet: see conf/data/objectnet.yaml")
        return samples

    def _classes_of_folders(self) -> dict[str, list[str]]:
        """The classes of ImageNet that the objects of each folder are."""
        with self.faults.catch_errors():
            labels = self._mapping("folder_to_objectnet_label.json")
            classes = self._mapping("objectnet_to_imagenet_1k.json")
            found = {
                folder: [name for part in classes[label].split("; ") if (name := " ".join(part.split()))]
                for folder, label in labels.items()
                if label in classes
            }
            return {folder: names for folder, names in found.items() if names}
        return {}

    def _mapping(self, name: str) -> dict[str, str]:
        path = self.root / self.mappings / name
        content = read_json(path, description=f"a mapping of {self.name}")
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise DataError("unexpected structure", f"{path}: expected an object {{name: name}}")
        return content
