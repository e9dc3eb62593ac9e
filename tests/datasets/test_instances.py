"""Files of COCO's form of any photos: splits, official ids, categories that differ, novel ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.datasets.splits import sizes
from vlp.data.issues import DataError, Faults
from vlp.datasets.instances import InstanceFiles
from vlp.system.errors import UserError

Loading = dict[str, Any]
CATEGORIES = [{"id": 4, "name": "cell"}, {"id": 2, "name": "platelet"}]
SPLITS = ("train", "val", "test")


def write(root: Path, split: str, first: int, images: int = 3, **changed: Any) -> None:
    records = [{"id": first + i, "file_name": f"{first + i}.png", "width": 8, "height": 6} for i in range(images)]
    things = [
        {"id": i, "image_id": first + i % 2, "category_id": 2 + 2 * (i % 2), "bbox": [i, 1, 2, 3], "iscrowd": i == 3}
        for i in range(4)
    ]
    (root / split).mkdir(parents=True)
    for record in records:
        PIL.Image.new("RGB", (8, 6)).save(root / split / record["file_name"])
    content = {"images": records, "annotations": things, "categories": CATEGORIES, **changed}
    (root / f"instances_{split}.json").write_text(json.dumps(content))


def read(root: Path, loading: Loading, **changed: Any) -> InstanceFiles:
    files = {split: f"instances_{split}.json" for split in SPLITS}
    settings = {"annotations": files, "images": {split: split for split in SPLITS}, **changed}
    return InstanceFiles(root=root, **settings, **loading)


def test_boxes_crowds_and_photos_without_things_of_every_split(tmp_path: Path, loading: Loading) -> None:
    for first, split in enumerate(SPLITS):
        write(tmp_path, split, first * 10)
    data = read(tmp_path, loading)
    assert sizes(data) == (3, 3, 3)
    assert (data.class_names, data.category_ids) == (("platelet", "cell"), (2, 4))
    one, two, empty = data.split("test")
    assert one.boxes == ((0, 1, 2, 4), (2, 1, 4, 4))
    assert (one.box_labels, one.box_crowds, one.categories) == ((0, 0), (False, False), (0,))
    assert (two.box_labels, two.box_crowds, two.as_stored) == ((1, 1), (False, True), True)
    assert empty.boxes == ()
    assert [data.ground_truth(split).name for split in SPLITS] == [f"instances_{split}.json" for split in SPLITS]


def test_val_is_held_out_where_it_has_no_file(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, "train", 0)
    files = {"train": "instances_train.json", "val": None, "test": None}
    data = read(tmp_path, loading, annotations=files, held_out=1)
    assert sizes(data) == (2, 1, 0)
    assert data.ground_truth("val") == data.ground_truth("train")
    with pytest.raises(UserError, match=r"toy has no test split: set data\.annotations\.test"):
        data.ground_truth("test")
    with pytest.raises(UserError, match=r"data\.annotations\.val=null"):
        read(tmp_path, loading, held_out=1)


def test_novel_categories_have_boxes_in_evaluation_alone(tmp_path: Path, loading: Loading) -> None:
    for first, split in enumerate(SPLITS):
        write(tmp_path, split, first * 10)
    data = read(tmp_path, loading, novel=["cell"])
    assert [sample.box_labels for sample in data.split("train")] == [(0, 0)]
    assert [sample.box_labels for sample in data.split("test")] == [(0, 0), (1, 1), ()]
    with pytest.raises(UserError, match=r"data\.novel='r': give a list"):
        read(tmp_path, loading, novel="r").split("train")


def test_splits_of_other_categories_and_broken_files_are_faults(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, "train", 0)
    write(tmp_path, "val", 10, categories=[{"id": 4, "name": "cell"}, {"id": 2, "name": "thrombocyte"}])
    data = read(tmp_path, loading)
    data.split("train")
    with pytest.raises(DataError, match=r"instances_val\.json: its categories are not those of the other splits"):
        data.split("val")
    (tmp_path / "test").mkdir()
    (tmp_path / "instances_test.json").write_text("[1]")
    data = read(tmp_path, loading)
    data.faults = Faults(collect=True)
    assert data.samples("test") == []
    assert [fault.kind for fault in data.faults.issues.values()] == ["unexpected structure"]


def test_a_check_names_photos_of_another_size_than_their_boxes_are_for(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, "test", 20)
    PIL.Image.new("RGB", (4, 3)).save(tmp_path / "test/21.png")
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "test/20.png", exif=turned)  # as stored, it has the right size
    (tmp_path / "test/22.png").write_bytes(b"damaged: the check finds it when it reads the photos")
    data = read(tmp_path, loading)
    data.faults = Faults(collect=True)
    assert len(data.samples("test")) == 3
    (fault,) = data.faults.issues.values()
    assert (fault.kind, fault.fatal, fault.count) == ("photo of another size", False, 1)
    assert "21.png: 4 × 3 pixels, where its annotations say 8 × 6" in fault.examples[0]
    assert len(read(tmp_path, loading).samples("test")) == 3


def test_photos_of_blood_cells(shared: Path, loading: Loading) -> None:
    data = read(shared / "data/bccd", loading)
    assert sizes(data) == (205, 87, 72)
    assert data.class_names == ("RBC", "WBC", "Platelets")
    assert [sum(len(s.boxes or ()) for s in data.split(split)) for split in SPLITS] == [2804, 1137, 945]
