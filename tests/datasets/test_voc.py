"""PASCAL VOC's XML: boxes counted from 1, difficult objects, lists of several years, and the file of instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.datasets.splits import sizes
from vlp.data.issues import DataError, Faults
from vlp.datasets.voc import VOC
from vlp.system.errors import UserError

Loading = dict[str, Any]


def thing(name: str, *box: float | str, difficult: int | None = 0, part: bool = False) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    inner = f"<part><name>head</name><bndbox>{corners}</bndbox></part>" if part else ""
    hard = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{inner}{hard}<bndbox>{corners}</bndbox></object>"


def write(folder: Path, lists: dict[str, list[str]], objects: dict[str, str] | None = None) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            PIL.Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{name}.jpg")
            things = (objects or {}).get(name, thing("dog", 1, 1, 5, 4))
            size = "<size><width>20</width><height>10</height><depth>3</depth></size>"
            (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{things}</annotation>")


def read(root: Path, loading: Loading, **changed: Any) -> VOC:
    settings = {"splits": {"train": "A/trainval", "val": None, "test": "A/test"}, "classes": ["cat", "dog"]}
    return VOC(root=root, cache=root / "cache", **{**settings, **changed}, **loading)


def test_boxes_are_counted_from_one_and_difficult_objects_are_crowds(tmp_path: Path, loading: Loading) -> None:
    things = {
        "000001": thing("cat", 1, 1, 20, 10)
        + thing("dog", 3, 2.5, 3, 4, difficult=1)
        + thing("dog", 18, 8, 25, 12, difficult=None),
        "000002": "",
        "000003": thing("dog", 2, 2, 6, 6, part=True),
    }
    write(tmp_path / "A", {"trainval": ["000009"], "test": ["000001", "000002", "000003"]}, things)
    data = read(tmp_path, loading)
    first, empty, parted = data.split("test")
    assert first.boxes == ((0, 0, 20, 10), (2, 1.5, 3, 4), (17, 7, 20, 10))
    assert (first.box_labels, first.box_crowds) == ((0, 1, 1), (False, True, False))
    assert (first.categories, first.as_stored) == ((0, 1), True)
    assert (empty.boxes, empty.categories) == ((), ())
    assert parted.boxes == ((1, 1, 6, 6),)
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 2))


def test_the_file_of_instances_is_read_back_by_pycocotools(tmp_path: Path, loading: Loading) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    things = {"000001": thing("cat", 1, 1, 20, 10) + thing("dog", 3, 3, 8, 6, difficult=1), "000002": ""}
    write(tmp_path / "A", {"trainval": ["000009"], "test": ["000001", "000002"]}, things)
    data = read(tmp_path, loading)
    path = data.ground_truth("test")
    assert path.parent == tmp_path / "cache"
    assert data.ground_truth("test") == path
    truth = coco.COCO(str(path))
    samples = data.split("test")
    assert sorted(truth.getImgIds()) == sorted(sample.id for sample in samples)
    assert [category["name"] for category in truth.loadCats([1, 2])] == ["cat", "dog"]
    found = truth.loadAnns(truth.getAnnIds(imgIds=[samples[0].id]))
    assert [(a["bbox"], a["category_id"], a["iscrowd"], a["area"]) for a in found] == [
        ([0, 0, 20, 10], 1, 0, 200),
        ([2, 2, 6, 4], 2, 1, 24),
    ]
    assert {image["width"] for image in truth.loadImgs(truth.getImgIds())} == {20}
    # other boxes are another file
    write(tmp_path / "A", {"test": ["000001", "000002"]}, {"000001": thing("cat", 1, 1, 2, 2)})
    assert read(tmp_path, loading).ground_truth("test") != path


def test_lists_of_several_years_are_joined_and_val_is_held_out(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path / "A", {"trainval": ["000001", "000002"], "test": ["000003"]})
    write(tmp_path / "B", {"trainval": ["2008_000001", "2008_000002"]})
    splits = {"train": ["A/trainval", "B/trainval"], "val": None, "test": "A/test"}
    data = read(tmp_path, loading, splits=splits, held_out=1)
    assert sizes(data) == (3, 1, 1)
    assert len({sample.id for split in ("train", "val", "test") for sample in data.split(split)}) == 5
    truth = json.loads(data.ground_truth("val").read_text())
    assert [image["id"] for image in truth["images"]] == [data.split("val")[0].id]
    with pytest.raises(UserError, match=r"data\.splits\.val=null"):
        read(tmp_path, loading, splits={"val": "A/test"}, held_out=1)


def test_faults_are_counted(tmp_path: Path, loading: Loading) -> None:
    things = {
        "000001": thing("cow", 1, 1, 2, 2),
        "000002": thing("cat", 5, 5, 4, 9)
        + thing("cat", "x", 1, 2, 2)
        + thing("cat", 40, 1, 50, 2)
        + thing("cat", 1, 1, 2, 2),
        "000003": "<object>",
        "000004": "",
        "000005": "<object><name>cat</name></object>",
    }
    write(tmp_path / "A", {"trainval": ["000009"], "test": [*things, "000004"]}, things)
    (tmp_path / "A/Annotations/000004.xml").write_text("<annotation></annotation>")
    entity = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>'
    (tmp_path / "A/Annotations/000009.xml").write_text(entity)
    with (tmp_path / "A/ImageSets/Main/test.txt").open("a") as file:
        file.write("000002\n../x\nnone\n")
    data = read(tmp_path, loading)
    data.faults = Faults(collect=True)
    assert [sample.box_labels for sample in data.samples("test")] == [(0,), ()]
    data.samples("train")
    assert {(fault.kind, fault.fatal): fault.count for fault in data.faults.issues.values()} == {
        ("unknown category", True): 1, ("not valid XML", True): 2, ("missing key", True): 2, ("photo listed twice", True): 1,
        ("path outside the root", True): 1, ("missing file", True): 1,
        ("box of no area", False): 1, ("box is not four numbers", False): 2, ("box outside the image", False): 1,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"000001\.xml: object 1: 'cow' is none of data\.classes"):
        read(tmp_path, loading).split("test")
