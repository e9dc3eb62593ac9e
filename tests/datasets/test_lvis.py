"""LVIS v1 in its official form: photos by address, federated information, frequencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.issues import DataError
from vlp.datasets.lvis import LVIS
from vlp.system.errors import UserError

Loading = dict[str, Any]
CATEGORIES = [
    {"id": 5, "name": "bow_(weapon)", "frequency": "r", "synonyms": ["bow"]},
    {"id": 2, "name": "aerosol_can", "frequency": "c", "synonyms": ["aerosol_can", "spray_can"]},
    {"id": 9, "name": "cat", "frequency": "f", "synonyms": ["cat"]},
]


def write(root: Path, split: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    for record in images:
        file = root / record["coco_url"].removeprefix("http://images.cocodataset.org/")
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 6)).save(file)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / f"lvis_v1_{split}.json").write_text(json.dumps(content))


def image(number: int, folder: str, negative: list[int], incomplete: list[int]) -> dict[str, Any]:
    return {
        "id": number, "coco_url": f"http://images.cocodataset.org/{folder}/{number:012d}.jpg", "width": 8, "height": 6,
        "neg_category_ids": negative, "not_exhaustive_category_ids": incomplete, "flickr_url": "", "license": 1,
    }  # fmt: skip


def thing(number: int, photo: int, category: int) -> dict[str, Any]:
    polygon = [[1, 1, 5, 1, 5, 4, 1, 4]]
    return {
        "id": number,
        "image_id": photo,
        "category_id": category,
        "bbox": [1, 1, 4, 3],
        "area": 12,
        "segmentation": polygon,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    train = [image(1, "train2017", [9], []), image(2, "train2017", [], [2]), image(3, "train2017", [2, 5], [])]
    write(tmp_path, "train", train, [thing(1, 1, 5), thing(2, 1, 2), thing(3, 2, 5)])
    write(tmp_path, "val", [image(4, "train2017", [5], []), image(5, "val2017", [], [9])], [thing(1, 5, 9)])
    return tmp_path


def lvis(root: Path, loading: Loading, **changed: Any) -> LVIS:
    files = {"train": "lvis_v1_train.json", "val": None, "test": "lvis_v1_val.json"}
    return LVIS(root=root, annotations=files, images={}, **{"held_out": 0, **changed}, **loading)


def test_photos_are_found_by_their_address_and_carry_what_was_looked_for(root: Path, loading: Loading) -> None:
    data = lvis(root, {**loading, "batch_size": 3}, masks=True)
    first, second, third = data.split("train")
    assert (data.class_names, data.category_ids) == (("aerosol can", "bow (weapon)", "cat"), (2, 5, 9))
    assert data.frequencies == ("c", "r", "f")
    assert (first.box_labels, first.absent_categories, first.not_exhaustive) == ((1, 0), (2,), ())
    assert (second.box_labels, second.absent_categories, second.not_exhaustive) == ((1,), (), (0,))
    assert (third.boxes, third.absent_categories) == ((), (0, 1))
    assert first.box_masks == ([[1, 1, 5, 1, 5, 4, 1, 4]],) * 2
    test = data.split("test")
    assert [str(sample.image.relative_to(root)) for sample in test] == [  # type: ignore[union-attr]
        "train2017/000000000004.jpg",
        "val2017/000000000005.jpg",
    ]
    assert data.ground_truth("test") == root / "lvis_v1_val.json"
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert all(boxes.absent is not None and boxes.mask is not None for boxes in batch.boxes)


def test_rare_categories_have_no_boxes_in_training(root: Path, loading: Loading) -> None:
    data = lvis(root, loading, novel="r")
    (only,) = data.split("train")
    assert (only.id, only.box_labels) == (1, (0,))
    assert data.class_names == ("aerosol can", "bow (weapon)", "cat")
    assert [sample.box_labels for sample in data.split("test")] == [(), (2,)]
    assert [sample.box_labels for sample in lvis(root, loading, novel=["aerosol_can"]).split("train")] == [(1,), (1,)]
    with pytest.raises(UserError, match=r"data\.novel='x': give letters of r, c, f"):
        lvis(root, loading, novel="x").split("train")


def test_addresses_that_lead_elsewhere_are_refused(root: Path, loading: Loading) -> None:
    path = root / "lvis_v1_val.json"
    content = json.loads(path.read_text())
    for address, words in (("http://x/../etc", "leads out of"), (None, "has no coco_url")):
        content["images"][0]["coco_url"] = address
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            lvis(root, loading).split("test")
