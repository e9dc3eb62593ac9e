"""LVIS v1: boxes and masks of 1,203 categories on COCO's photos, of which each was looked for in some photos only.

    lvis_v1_{train,val}.json   {"images": [{"id", "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
                                "neg_category_ids": [..], "not_exhaustive_category_ids": [..], "height", "width"}, ..],
                                "categories": [{"id", "name": "bow_(weapon)", "frequency": "r" | "c" | "f"}, ..], ..}
    {train,val}2017/*.jpg      COCO's photos; both folders are needed, val has photos of both

A photo's record has no file name: folder and name are the end of `coco_url`. 100,170 photos of train, 19,809 of val; test's
annotations are not public, so test is val, and val is held out from train. Many photos of LVIS's val are of COCO's train2017:
whatever was trained on COCO's boxes or captions has seen them. Gupta et al., arXiv:1908.03195; lvisdataset.org.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.data.annotation_files import objects_under_key
from vlp.data.issues import DataError
from vlp.datasets.common.class_names import report_equal_names
from vlp.datasets.common.coco_instances import Instances
from vlp.datasets.instances import InstanceFiles
from vlp.system.errors import UserError

FREQUENCIES = ("r", "c", "f")  # shown by up to 10, up to 100, more photos of train


class LVIS(InstanceFiles):
    """novel: names, or letters of frequencies ("r": rare ones), without boxes in train and val.  frequencies: known after
    `setup`, of each class.  The others: see InstanceFiles.

    A category that is neither among a photo's boxes nor in `neg_category_ids` was not looked for: whether the photo shows
    it is unknown. Samples carry both lists (`absent_categories`, `not_exhaustive`), or a loss would punish right answers.
    """

    frequency_of_id: dict[Any, str]

    @property
    def frequencies(self) -> tuple[str, ...] | None:
        return None if self.category_ids is None else tuple(map(self.frequency_of_id.__getitem__, self.category_ids))

    def photo_path(self, record: dict[str, Any], split: str, *, place: str) -> Path:
        address = record.get("coco_url")
        if not isinstance(address, str) or address.count("/") < 1:
            raise DataError("not a file name", f"{place} has no coco_url, whose end is the folder and the file")
        return self.resolve_path(self.root, "/".join(PurePosixPath(address).parts[-2:]), location=place)

    def category_names(self, content: Mapping[str, Any]) -> None:
        """ "bow_(weapon)" → "bow (weapon)"."""
        categories = objects_under_key(content, "categories", location=self.root)
        for category in categories:
            category["name"] = str(category.get("name")).replace("_", " ")
        report_equal_names((category["name"] for category in categories), location=self.root, faults=self.faults)
        self.frequency_of_id = {category.get("id"): str(category.get("frequency")) for category in categories}

    def novel_names(self, content: Mapping[str, Any]) -> Collection[str]:
        if not isinstance(self.novel, str):
            return [name.replace("_", " ") for name in self.novel]
        if not self.novel or not set(self.novel) <= set(FREQUENCIES):
            raise UserError(f"data.novel={self.novel!r}: give letters of {', '.join(FREQUENCIES)}, or a list of names")
        categories = objects_under_key(content, "categories", location=self.root)
        return [category["name"] for category in categories if category.get("frequency") in set(self.novel)]

    def more_fields(self, record: dict[str, Any], instances: Instances) -> dict[str, Any]:
        position = instances.positions
        absent, incomplete = (
            tuple(position[number] for number in record.get(key) or () if number in position)
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
        )
        return {"absent_categories": absent, "not_exhaustive": incomplete}
