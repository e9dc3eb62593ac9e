from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from tests.datasets.splits import pictures, sizes
from vlp.data.issues import Faults
from vlp.data.pixel_labels import read_class_map
from vlp.datasets.label_maps import LabelMaps
from vlp.launch.config.choices import options

Loading = dict[str, Any]


def of_yaml(word: str, root: Path, loading: Loading, **changed: Any) -> LabelMaps:
    """As conf/data/<word>.yaml sets it up."""
    base, own = (yaml.safe_load(options("data")[name].read_text(encoding="utf-8")) for name in ("label_maps", word))
    left_out = {"defaults", "_target_", "_convert_", "name", "root"}
    settings = {key: value for key, value in {**base, **own}.items() if key not in left_out}
    return LabelMaps(root=root, **{**settings, **loading, **changed})


def label(path: Path, values: list[int], palette: bool = False) -> None:
    """A label map of 4 × 4 pixels whose first row has the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((4, 4), dtype=np.uint8)
    pixels[0] = values
    picture = PIL.Image.fromarray(pixels)
    if palette:
        picture.putpalette([0, 0, 0, 128, 0, 0] * 128)
    picture.save(path)


def first_row(data: LabelMaps, split: str, index: int = 0) -> list[int]:
    return read_class_map(data.split(split)[index])[0].tolist()


def test_ade20k(tmp_path: Path, loading: Loading) -> None:
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{i}\t0.1\t5\t5\tclass {i}, other, name" for i in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    for split, numbers in (("training", (1, 2, 3)), ("validation", (1, 2))):
        for number in numbers:
            name = f"ADE_{split}_{number:08d}"
            pictures(tmp_path, f"images/{split}/{name}.jpg")
            label(tmp_path / f"annotations/{split}/{name}.png", [0, 1, 150, 151])
    data = of_yaml("ade20k", tmp_path, loading, held_out=1)
    assert sizes(data) == (2, 1, 2)
    assert data.segment_names is not None
    assert data.segment_names[:2] == ("class 1", "class 2")
    assert data.segment_ids == tuple(range(1, 151))
    assert first_row(data, "train") == [255, 0, 149, 255]


def test_voc_has_palettes_and_lists(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, *(f"JPEGImages/2007_{number:06d}.jpg" for number in range(6)))
    for number in range(5):  # the last photo has no segmentation
        label(tmp_path / f"SegmentationClass/2007_{number:06d}.png", [0, 1, 20, 255], palette=True)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000003\n2007_000004\n")
    (lists / "val.txt").write_text("2007_000001\n2007_000002\n")
    data = of_yaml("voc_segmentation", tmp_path, loading, held_out=1)
    assert sizes(data) == (2, 1, 2)
    assert data.segment_names is not None
    assert len(data.segment_names) == 21
    assert first_row(data, "test") == [0, 1, 20, 255]
    assert {sample.image.stem for split in ("train", "val") for sample in data.split(split)} == {
        "2007_000000",
        "2007_000003",
        "2007_000004",
    }


def test_coco_stuff_has_gaps(tmp_path: Path, loading: Loading) -> None:
    numbered = [f"{number}: name{number}" for number in range(1, 183)]
    (tmp_path / "labels.txt").write_text("\n".join(["0: unlabeled", *numbered]))
    for split in ("train2017", "val2017"):
        for number in (1, 2):
            pictures(tmp_path, f"{split}/{split}{number}.jpg")
            label(tmp_path / f"stuffthingmaps/{split}/{split}{number}.png", [0, 11, 12, 181])
    data = of_yaml("coco_stuff", tmp_path, loading, held_out=1)
    assert sizes(data) == (1, 1, 2)
    assert data.segment_names is not None
    assert len(data.segment_names) == 171
    assert data.segment_names[10:12] == ("name11", "name13")  # 12 is street sign, which no pixel has
    assert first_row(data, "test") == [0, 255, 11, 170]


def test_cityscapes_has_folders_of_cities_and_its_own_values(tmp_path: Path, loading: Loading) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "munster")):
        name = f"{split}/{city}/{city}_000000_000019"
        pictures(tmp_path, f"leftImg8bit/{name}_leftImg8bit.png")
        label(tmp_path / f"gtFine/{name}_gtFine_labelIds.png", [7, 0, 33, 29])
        label(tmp_path / f"gtFine/{name}_gtFine_instanceIds.png", [7, 0, 33, 29])
    data = of_yaml("cityscapes", tmp_path, loading, held_out=1)
    assert sizes(data) == (1, 1, 1)
    assert first_row(data, "test") == [0, 255, 18, 255]
    assert data.segment_names is not None
    assert (data.segment_names[0], data.segment_names[18]) == ("road", "bicycle")


def test_camvid_as_it_is_shared(shared: Path, loading: Loading) -> None:
    data = of_yaml("camvid", shared / "data/camvid", loading, image_end=".jpg")
    assert sizes(data) == (367, 101, 233)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.segmentation is not None
    assert batch.segmentation.shape == (4, 16, 16)
    assert set(batch.segmentation.unique().tolist()) <= {*range(11), 255}
    assert batch.segments is None
    assert batch.categories is None  # classes of pixels are not classes of photos


def test_ade20k_as_it_is_shared(shared: Path, loading: Loading) -> None:
    folders = {"images": {"test": "sampleData/images"}, "labels": {"test": "sampleData/annotations"}}
    data = of_yaml("ade20k", shared / "data/ade20k-sample", loading, held_out=0, **folders)
    assert sizes(data) == (0, 0, 3)
    assert data.segment_names is not None
    assert len(data.segment_names) == 150
    assert data.segment_names[:3] == ("wall", "building", "sky")
    raw = np.asarray(PIL.Image.open(shared / "data/ade20k-sample/sampleData/annotations/ADE_val_00000001.png"))
    classes = read_class_map(data.split("test")[0]).astype(int)
    assert np.array_equal(np.where(classes == 255, 0, classes + 1), raw)


def toy(root: Path, loading: Loading, **changed: Any) -> LabelMaps:
    settings = {"images": {"train": "photos"}, "labels": {"train": "maps"}, "names": ["sky", "grass"]}
    return LabelMaps(root=root, **{**settings, **loading, **changed})


def test_mistakes_are_named(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "photos/1.jpg", "photos/2.jpg")
    label(tmp_path / "maps/1.png", [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"2\.jpg has no label map .*2\.png"):
        toy(tmp_path, loading).split("train")
    label(tmp_path / "maps/2.png", [0, 1, 0, 1])
    assert len(toy(tmp_path, loading).split("train")) == 2
    with pytest.raises(FileNotFoundError, match=r"ends in \.png"):
        toy(tmp_path, loading, image_end=".png").split("train")
    with pytest.raises(ValueError, match="a value of its own"):
        toy(tmp_path, loading, values=[3, 3]).split("train")
    with pytest.raises(ValueError, match="of values below 255"):
        toy(tmp_path, loading, offset=254).split("train")
    with pytest.raises(ValueError, match="give both folders"):
        toy(tmp_path, loading, labels={})
    with pytest.raises(ValueError, match="without a val folder"):
        toy(tmp_path, loading, images={"val": "photos"}, labels={"val": "maps"}, held_out=1)
    (tmp_path / "names.txt").write_text("0: sky\nno number: grass\n0: sea\n")
    with pytest.raises(ValueError, match="lines 2, 3 are not a new number"):
        toy(tmp_path, loading, names="names.txt").split("train")
    (tmp_path / "list.txt").write_text("1\n1\n")
    with pytest.raises(ValueError, match="listed more than once"):
        toy(tmp_path, loading, lists={"train": "list.txt"}).split("train")


def test_a_check_opens_every_label_map(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg", "photos/notes.txt.jpg")
    label(tmp_path / "maps/1.png", [0, 1, 0, 1])
    PIL.Image.new("L", (5, 4)).save(tmp_path / "maps/2.png")
    (tmp_path / "maps/3.png").write_bytes(b"no image")
    data = toy(tmp_path, loading)
    data.faults = Faults(collect=True)
    assert len(data.samples("train")) == 1
    counts = {issue.kind: issue.count for issue in data.faults.issues.values()}
    assert counts == {
        "segmentation of another size": 1,
        "segmentation cannot be read": 1,
        "photo without a label map": 1,
    }
