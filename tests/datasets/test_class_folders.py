from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.datasets.splits import pictures, sizes
from vlp.data.issues import Faults
from vlp.datasets.class_folders import ClassFolders
from vlp.launch.config.compose import conf_folder

Loading = dict[str, Any]


def test_class_folders_with_a_held_out_val(shared: Path, loading: Loading) -> None:
    splits = {"train": "train", "val": None, "test": "test"}
    data = ClassFolders(root=shared / "data/cifar10-sample", splits=splits, held_out=100, **loading)
    train, val, test = sizes(data)
    assert val == 100
    assert train + val + test == 3000
    assert data.class_names == (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.caption is None
    assert batch.label is not None
    assert batch.label.tolist() == [0, 0, 0]


def test_one_set_of_class_folders(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "n02/1.jpg", "n01/sub/2.PNG", ".cache/3.jpg")
    (tmp_path / "n01" / "notes.txt").write_text("x")
    data = ClassFolders(root=tmp_path, splits={"test": "."}, **loading)
    assert sizes(data) == (0, 0, 2)
    assert data.class_names == ("n01", "n02")
    (tmp_path / "names.json").write_text('{"n01": "tench", "n02": "goldfish"}')
    data = ClassFolders(root=tmp_path, splits={"test": "."}, class_names_file="names.json", **loading)
    assert [data.split("test")[i].label for i in (0, 1)] == [0, 1]
    assert data.class_names == ("tench", "goldfish")
    (tmp_path / "names.json").write_text('{"n01": "tench"}')
    with pytest.raises(ValueError, match="names no class for the folders n02"):
        ClassFolders(root=tmp_path, splits={"test": "."}, class_names_file="names.json", **loading).split("test")
    with pytest.raises(FileNotFoundError, match="the train folder of toy is missing"):
        ClassFolders(root=tmp_path, splits={"train": "train"}, **loading).split("train")


def test_numbered_folders_are_classes_by_their_position_in_the_list(tmp_path: Path, loading: Loading) -> None:
    """ImageNet V2: folder 10 is the eleventh class, also where some have no folder."""
    pictures(tmp_path, "v2/10/1.jpg", "v2/2/2.jpg", "v2/0/3.jpg")
    lines = [f"n{number:08d} class {number}, other name" for number in range(11)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    settings = {"splits": {"test": "v2"}, "class_names_file": "list.txt", "numbered": True}
    data = ClassFolders(root=tmp_path, **settings, **loading)
    assert [(Path(str(s.image)).name, s.label) for s in data.split("test")] == [
        ("3.jpg", 0),
        ("2.jpg", 1),
        ("1.jpg", 2),
    ]
    assert data.class_names == ("class 0", "class 2", "class 10")
    pictures(tmp_path, "v2/11/1.jpg", "v2/x/1.jpg")
    with pytest.raises(ValueError, match=r"list\.txt names no class for the folders 11, x"):
        ClassFolders(root=tmp_path, **settings, **loading).split("test")
    with pytest.raises(ValueError, match=r"data\.numbered=true needs the classes in their order"):
        ClassFolders(root=tmp_path, splits={"test": "v2"}, numbered=True, **loading)


@pytest.mark.parametrize("option", ["imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_v2"])
def test_shifts_of_imagenet_are_read_as_they_come(tmp_path: Path, loading: Loading, option: str) -> None:
    """With the settings of their YAML, and the files that these name."""
    settings = {
        key: value
        for key, value in yaml.safe_load((conf_folder() / f"data/{option}.yaml").read_text()).items()
        if key in ("splits", "class_names_file", "numbered")
    }
    folders = ("0", "1") if option == "imagenet_v2" else ("n01440764", "n01443537")
    pictures(tmp_path, *(f"{settings['splits']['test']}/{folder}/a.JPEG" for folder in folders))
    names = "About these pictures.\n\nn01440764 tench\nn01443537 goldfish\nn01484850 great white shark\n"
    (tmp_path / settings["class_names_file"]).write_text(names)
    data = ClassFolders(root=tmp_path, **settings, **loading)
    assert sizes(data) == (0, 0, 2)
    assert data.class_names == ("tench", "goldfish")


def test_hidden_names_are_passed_over_also_on_the_way_down(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "test/cat/1.jpg", "test/dog/deep/2.jpg")
    hidden = (
        "test/cat/.ipynb_checkpoints/1-checkpoint.jpg", "test/cat/._1.jpg", "test/dog/deep/.cache/x/3.jpg",
        "test/.thumbnails/4.jpg", "test/__MACOSX/cat/5.jpg", "test/cat/__MACOSX/6.jpg", "test/._7.jpg",
    )  # fmt: skip
    pictures(tmp_path, *hidden)
    data = ClassFolders(root=tmp_path, splits={"test": "test"}, **loading)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [sample.image.name for sample in data.split("test")] == ["1.jpg", "2.jpg"]
    assert data.class_names == ("cat", "dog")


def test_what_is_left_out_for_its_suffix_or_its_folder_is_counted(tmp_path: Path, loading: Loading) -> None:
    for split in ("train", "test"):
        pictures(tmp_path, f"{split}/cat/1.jpg", f"{split}/beside.png")
        for name in ("2.heic", "notes.txt", "deep/3"):
            (tmp_path / split / "cat" / name).parent.mkdir(exist_ok=True)
            (tmp_path / split / "cat" / name).write_bytes(b"x")
    data = ClassFolders(root=tmp_path, splits={"train": "train", "test": "test"}, **loading)
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match="file with no suffix of an image, 3 left out: .*cat/2.heic") as warned:
            assert len(data.split(split)) == 1
        assert any("image in no class folder, 1 left out: beside.png" in str(warning.message) for warning in warned)
    data.faults = Faults(collect=True)
    data._read.clear()
    data.samples("test")
    counts = {issue.kind: issue.count for issue in data.faults.issues.values()}
    assert counts == {"file with no suffix of an image": 3, "image in no class folder": 1}


def test_a_linked_folder_is_followed_where_that_is_allowed_and_counted_elsewhere(
    tmp_path: Path, loading: Loading
) -> None:
    pictures(tmp_path, "root/cat/1.jpg", "outside/2.jpg")
    os.symlink(tmp_path / "outside", tmp_path / "root/cat/linked")
    os.symlink(tmp_path / "root/cat", tmp_path / "root/cat/loop")
    arguments = {"root": tmp_path / "root", "splits": {"test": "."}, **loading}
    with pytest.warns(UserWarning, match=r"link to a folder, needs data\.follow_symlinks=true, 2 left out"):
        assert len(ClassFolders(**arguments).split("test")) == 1
    found = ClassFolders(**arguments, follow_symlinks=True).split("test")
    assert [str(sample.image.relative_to(tmp_path / "root")) for sample in found] == ["cat/1.jpg", "cat/linked/2.jpg"]


def test_formats_of_images(tmp_path: Path, loading: Loading) -> None:
    pictures(
        tmp_path, *(f"cat/{extension}.{extension}" for extension in ("avif", "jp2", "j2k", "JPEG", "jfif", "webp"))
    )
    data = ClassFolders(root=tmp_path, splits={"test": "."}, **{**loading, "eval_batch_size": 6})
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert len(batch.id) == 6


def test_folders_whose_names_look_equal_are_one_class(tmp_path: Path, loading: dict[str, Any]) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    pictures(tmp_path, f"train/{composed}/1.jpg", f"val/{decomposed}/2.jpg", f"val/{composed}/3.jpg", "val/tea/4.jpg")
    data = ClassFolders(root=tmp_path, splits={"train": "train", "val": "val"}, **loading)
    assert [sample.label for sample in data.split("val")] == [0, 0, 1]
    assert data.class_names == (composed, "tea")
    pictures(tmp_path, "train/polar_bear/1.jpg", "train/Polar bear/2.jpg")
    data = ClassFolders(root=tmp_path, splits={"train": "train", "val": None}, **loading)
    with pytest.warns(UserWarning, match="1 names stand for several classes.*'Polar bear' and 'polar bear'"):
        data.split("train")
