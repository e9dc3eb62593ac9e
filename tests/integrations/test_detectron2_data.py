"""Dataset dicts of samples with every kind of annotation, by hand, and of generated scenes against their official file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as run_lengths

from vlp.data.datamodule import DataModule
from vlp.data.transforms import EvalTransform
from vlp.datasets.coco import COCO
from vlp.integrations.detectron2_data import dataset_dicts, metadata
from vlp.scenes.generate import generate
from vlp.structures import Member, Sample
from vlp.system.errors import UserError

TRANSFORM = {"train": EvalTransform(image_size=32), "eval": EvalTransform(image_size=32)}
POLYGON = (1.0, 1.0, 5.0, 1.0, 5.0, 4.0)


class Given(DataModule):
    class_names = ("cat", "dog")
    given: tuple[Sample, ...] = ()

    def samples(self, split: str) -> list[Sample]:
        return list(self.given) if split == "train" else []


def given(root: Path, *samples: Sample) -> Given:
    data = Given(name="given", root=root, transform=TRANSFORM)
    data.given = samples
    return data


def test_every_kind_of_annotation(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30), dtype=np.uint8)
    pixels[4:9, 10:13] = 1
    counts = [0]
    for value in pixels.flatten(order="F"):  # the first run is of zeros
        same = value == (len(counts) + 1) % 2
        counts = [*counts[:-1], counts[-1] + 1] if same else [*counts, 1]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    PIL.Image.new("RGB", (20, 30)).save(tmp_path / "a.jpg")
    PIL.Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    boxes = ((1.0, 2.0, 4.0, 8.5), (0.0, 0.0, 20.0, 30.0))
    data = given(
        tmp_path,
        Sample(id=7, sample=0, image=tmp_path / "a.jpg", captions=("a",), boxes=boxes, box_labels=(1, 0), box_crowds=(False, True),
               box_masks=((POLYGON,), {"size": [20, 30], "counts": counts})),
        Sample(id=9, sample=1, image=tmp_path / "turned.jpg", captions=("b",), boxes=()),
        Sample(id=11, sample=2, image=tmp_path / "a.jpg", captions=("c",)),
    )  # fmt: skip
    first, second = dataset_dicts(data, "train")
    assert {key: first[key] for key in ("file_name", "image_id", "width", "height")} == {
        "file_name": str(tmp_path / "a.jpg"), "image_id": 7, "width": 20, "height": 30,
    }  # fmt: skip
    crowd = first["annotations"].pop()
    assert first["annotations"] == [
        {"bbox": [1.0, 2.0, 3.0, 6.5], "bbox_mode": 1, "category_id": 1, "iscrowd": 0, "segmentation": [list(POLYGON)]}
    ]
    assert (crowd["bbox"], crowd["category_id"], crowd["iscrowd"]) == ([0.0, 0.0, 20.0, 30.0], 0, 1)
    np.testing.assert_array_equal(run_lengths.decode(crowd["segmentation"]), pixels)
    assert (second["width"], second["height"], second["annotations"]) == (20, 30, [])
    assert metadata(data, "train") == {"thing_classes": ["cat", "dog"], "evaluator_type": "coco"}
    data.category_ids = (3, 90)
    assert metadata(data, "train")["thing_dataset_id_to_contiguous_id"] == {3: 0, 90: 1}


def test_boxes_of_phrases_are_of_one_class(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    data = given(tmp_path, Sample(id=7, sample=0, image=tmp_path / "a.png", captions=("red",), boxes=((1, 2, 4, 8),)))
    ((annotation,),) = [record["annotations"] for record in dataset_dicts(data, "train")]
    assert annotation == {"bbox": [1, 2, 3, 6], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    assert metadata(data, "train")["thing_classes"] == ["thing"]


def test_data_that_detectron2_cannot_read(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="given has no boxes in train"):
        dataset_dicts(given(tmp_path, Sample(id=7, sample=0, image=tmp_path / "a.png", captions=("red",))), "train")
    member = Member(archive=tmp_path / "a.tar", name="a.png", offset=0, size=1)
    data = given(tmp_path, Sample(id=7, sample=0, image=member, captions=("red",), boxes=((1, 2, 4, 8),)))
    with pytest.raises(UserError, match="packed in tar files"):
        dataset_dicts(data, "train")


def test_scenes_give_what_their_official_file_says(tmp_path: Path) -> None:
    generate(tmp_path, images={"train": 4, "val": 2, "test": 3}, size=64, seed=0)
    data = COCO(name="coco", root=tmp_path, transform=TRANSFORM, train="train", test="test", held_out=1, boxes=True)
    records = {record["image_id"]: record for record in dataset_dicts(data, "test")}
    official: dict[str, Any] = json.loads((tmp_path / "annotations" / "instances_test.json").read_text())
    names = {category["id"]: category["name"] for category in official["categories"]}
    classes = metadata(data, "test")["thing_classes"]
    assert len(records) == len(official["images"]) == 3
    for image in official["images"]:
        record = records[image["id"]]
        assert (record["height"], record["width"]) == (image["height"], image["width"])
        expected = sorted(
            (*annotation["bbox"], names[annotation["category_id"]])
            for annotation in official["annotations"]
            if annotation["image_id"] == image["id"]
        )
        ours = sorted((*one["bbox"], classes[one["category_id"]]) for one in record["annotations"])
        assert [row[4] for row in ours] == [row[4] for row in expected]
        np.testing.assert_allclose([row[:4] for row in ours], [row[:4] for row in expected], atol=1e-9)
