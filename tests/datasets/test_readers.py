from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.annotation_files import path_below_root, read_json
from vlp.data.datamodule import DataModule
from vlp.data.image_ids import FLICKR_BASE, flickr_image_id
from vlp.data.issues import Faults
from vlp.datasets.class_folders import ClassFolders
from vlp.datasets.coco import COCO
from vlp.datasets.flickr import Flickr, read_captions
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.table import Table

Loading = dict[str, Any]


def sizes(data: DataModule) -> tuple[int, ...]:
    """Sizes of the splits, which share no image and no id."""
    splits = [list(data.split(split)) for split in ("train", "val", "test")]
    for what in ("id", "image"):
        values = [getattr(sample, what) for split in splits for sample in split]
        assert len(set(values)) == len(values), f"splits share an {what}"
    return tuple(map(len, splits))


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 4)).save(folder / name)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:/a.jpg", "a\0.jpg", "x" * 5000, "", None, 7]
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match=r"^list.json: images.0.: "):
        path_below_root(tmp_path, name, location="list.json: images[0]")


def test_links_may_not_leave_the_root_unless_allowed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    pictures(outside, "a.jpg")
    pictures(root, "real/b.jpg")
    os.symlink(outside, root / "folder")
    os.symlink(outside / "a.jpg", root / "a.jpg")
    os.symlink(root / "real" / "b.jpg", root / "b.jpg")
    for name in ("folder/a.jpg", "a.jpg"):
        with pytest.raises(ValueError, match="follow_symlinks=true"):
            path_below_root(root, name, location="x")
        assert path_below_root(root, name, location="x", follow_symlinks=True) == root / name
    assert path_below_root(root, "b.jpg", location="x") == root / "b.jpg"
    os.symlink(root, tmp_path / "alias")
    assert path_below_root(tmp_path / "alias", "real/b.jpg", location="x") == tmp_path / "alias" / "real" / "b.jpg"


def test_json_errors_tell_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, description="it") == {"a": 1}
    for data, message in (
        ('{"é": 1, "b"'.encode(), "not valid JSON at byte 13"),
        (b'{"a": "\xe9"}', "byte 7 is not UTF-8"),
        (b"<html>", "not valid JSON at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_json(path, description="it")
    with pytest.raises(ValueError, match="more than the limit of 9"):
        read_json(path, description="it", max_bytes=9)
    with pytest.raises(FileNotFoundError, match="it is missing"):
        read_json(tmp_path / "b.json", description="it")


# -- Karpathy ----------------------------------------------------------------------------------------------------------


def test_flickr8k_of_karpathy(shared: Path, loading: Loading) -> None:
    data = Karpathy(root=shared / "data/flickr8k", annotations="dataset_flickr8k.json", images="Images", **loading)
    assert sizes(data) == (6000, 1000, 1000)
    assert all(len(sample.captions) == 5 for split in ("train", "val", "test") for sample in data.split(split))
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.caption is not None
    assert batch.caption.ids.shape[:2] == (3, 5)


def karpathy(tmp_path: Path, loading: Loading, *records: dict[str, Any], **changed: Any) -> Karpathy:
    whole = [
        {"imgid": i, "filename": f"{i}.jpg", "split": "train", "sentences": [{"raw": "x"}], **r}
        for i, r in enumerate(records)
    ]
    pictures(tmp_path, *(f"{r.get('filepath', '.')}/{r['filename']}" for r in whole if ".." not in r["filename"]))
    (tmp_path / "d.json").write_text(json.dumps({"images": whole}))
    return Karpathy(root=tmp_path, annotations="d.json", images=".", **{**loading, **changed})


def test_restval_is_trained_on_only_when_asked(tmp_path: Path, loading: Loading) -> None:
    records = [
        {"split": split, "filepath": "val2014", "cocoid": 7 + i}
        for i, split in enumerate(("train", "restval", "val", "test"))
    ]
    assert sizes(karpathy(tmp_path, loading, *records)) == (1, 1, 1)
    data = karpathy(tmp_path, loading, *records, restval=True)
    assert sizes(data) == (2, 1, 1)
    assert [sample.id for sample in data.split("train")] == [7, 8]
    assert data.split("test")[0].image == tmp_path / "val2014" / "3.jpg"


def test_karpathy_files_with_faults(tmp_path: Path, loading: Loading) -> None:
    empty = {"sentences": [{"raw": " \n"}]}
    assert len(karpathy(tmp_path, loading, empty, {}, {"sentences": []}).split("train")) == 1
    for records, message in (
        ([{**empty, "split": "test"}], r"images\[0\]: empty caption in evaluation data"),
        ([{"split": "test", "sentences": []}], "1 test images of toy have no caption"),
        ([{"cocoid": 5}, {"cocoid": 5, "split": "test"}], "image id listed more than once, so splits may overlap: 5"),
        ([{}, {"filename": "0.jpg", "split": "test"}], "image file listed more than once"),
        ([{}, {"filename": "../../etc/passwd", "split": "test"}], r"d.json: images\[1\]: .* leads out of"),
    ):
        with pytest.raises(ValueError, match=message):
            karpathy(tmp_path, loading, *records).split("test")
    (tmp_path / "d.json").write_text('{"images": [{"split": "train"}]}')
    with pytest.raises(ValueError, match=r"images\[0\] lacks filename, sentences"):
        Karpathy(root=tmp_path, annotations="d.json", images=".", **loading).split("train")


# -- COCO --------------------------------------------------------------------------------------------------------------


def test_coco_in_its_official_layout(shared: Path, loading: Loading) -> None:
    data = COCO(root=shared / "data/coco-sample", held_out=30, **loading)
    assert sizes(data) == (100, 30, 79)
    assert sum(len(sample.captions) for sample in data.split("test")) == 395
    assert data.class_names is not None
    assert len(data.class_names) == 80
    assert (data.class_names[0], data.class_names[79]) == ("person", "toothbrush")  # official ids 1 and 90
    first = next(sample for sample in data.split("test") if sample.id == 139)
    assert {"person", "chair", "tv"} <= {data.class_names[index] for index in first.categories}
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.categories is not None
    assert batch.categories.shape == (3, 80)


def coco(tmp_path: Path, loading: Loading, images: list[Any], annotations: list[Any]) -> COCO:
    (tmp_path / "annotations").mkdir(exist_ok=True)
    pictures(tmp_path / "val2017", "1.jpg", "2.jpg")
    content = {"images": images, "annotations": annotations}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return COCO(root=tmp_path, **loading)


def test_coco_files_with_faults(tmp_path: Path, loading: Loading) -> None:
    one, two = {"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}
    good, other = {"id": 1, "image_id": 1, "caption": "x"}, {"id": 2, "image_id": 9, "caption": "y"}
    with pytest.warns(UserWarning, match="captions of 1 unknown images are left out: 9"):
        assert len(coco(tmp_path, loading, [one], [good, other]).split("test")) == 1
    with pytest.raises(ValueError, match="not unique: 1"):
        coco(tmp_path, loading, [one, one], [good]).split("test")
    with pytest.raises(ValueError, match="not unique: 1"):
        coco(tmp_path, loading, [one], [good, good]).split("test")
    with pytest.raises(ValueError, match=r"1 test images of toy have no caption, no question and no class: 2.jpg"):
        coco(tmp_path, loading, [one, two], [good]).split("test")
    with pytest.raises(FileNotFoundError, match=r"captions_train2017.json"):
        coco(tmp_path, loading, [one], [good]).split("train")


# -- Flickr ------------------------------------------------------------------------------------------------------------


def flickr(root: Path, loading: Loading, **changed: Any) -> Flickr:
    splits = {
        split: f"Flickr_8k.{name}Images.txt" for split, name in (("train", "train"), ("val", "dev"), ("test", "test"))
    }
    return Flickr(
        root=root, **{"captions_file": "Flickr8k.token.txt", "images": "Images", "splits": splits, **loading, **changed}
    )


def test_flickr8k_of_the_official_files_equals_that_of_karpathy(shared: Path, loading: Loading) -> None:
    root = shared / "data/flickr8k"
    official = flickr(root, loading)
    assert sizes(official) == (6000, 1000, 1000)
    other = Karpathy(root=root, annotations="dataset_flickr8k.json", images="Images", **loading)
    for split in ("val", "test"):
        assert {s.image: s.id for s in official.split(split)} == {s.image: s.id for s in other.split(split)}
        captions = [{s.image: set(s.captions) for s in data.split(split)} for data in (official, other)]
        assert captions[0] == captions[1]


def test_flickr30k_split_lists_without_file_endings(shared: Path, loading: Loading, tmp_path: Path) -> None:
    lists = shared / "data/text-assets/flickr30k-splits"
    names = [line for split in ("train", "val", "test") for line in (lists / f"{split}.txt").read_text().split()]
    (tmp_path / "t.token").write_text("".join(f"{name}.jpg#0\tA {name} .\n" for name in names))
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text((lists / f"{split}.txt").read_text())
    data = flickr(
        tmp_path, loading, captions_file="t.token", images="images",
        splits={split: f"{split}.txt" for split in ("train", "val", "test")},
    )  # fmt: skip
    samples = {split: data.samples(split) for split in ("train", "val", "test")}
    assert [len(found) for found in samples.values()] == [29783, 1000, 1000]
    ids = {sample.image.stem: sample.id for found in samples.values() for sample in found}
    assert ids == {name: FLICKR_BASE + int(name) for name in names}
    assert len(set(ids.values())) == 31783, "each a photo of its own"


def test_photos_of_flickr_have_the_same_number_in_all_data_sets(shared: Path) -> None:
    lists = shared / "data/text-assets/flickr30k-splits"
    thirty = {
        flickr_image_id(f"{n}.jpg")
        for split in ("train", "val", "test")
        for n in (lists / f"{split}.txt").read_text().split()
    }
    eight = {flickr_image_id(path.name) for path in (shared / "data/flickr8k/Images").glob("*.jpg")}
    assert len(eight) == 8000
    assert eight <= thirty, "Flickr8k is a part of Flickr30k"


def test_captions_of_an_image_that_does_not_exist(tmp_path: Path, loading: Loading) -> None:
    """Flickr8k.token.txt has five of 2258277193_586949ec62.jpg.1, which is in no list."""
    pictures(tmp_path / "Images", "1_693b08cb0e.jpg")
    lines = ["1_693b08cb0e.jpg#0\tx", *(f"2258277193_586949ec62.jpg.1#{i}\ty" for i in range(5))]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split in ("train", "dev", "test"):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text("1_693b08cb0e.jpg\n" if split == "train" else "")
    data = flickr(tmp_path, loading)
    assert sizes(data) == (1, 0, 0)
    data = flickr(tmp_path, loading)
    data.faults = Faults(collect=True)
    data.samples("train")
    (finding,) = data.faults.issues.values()
    assert (finding.kind, finding.fatal, finding.count) == ("image in no split", False, 1)
    assert "2258277193_586949ec62.jpg.1" in finding.examples[0]


def test_caption_files_with_tabs_commas_and_header(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    expected = {"a.jpg": ["A dog, running .", 'He says "no" .'], "b.jpg": ["x"]}
    path.write_text('a.jpg#0\tA dog, running .\na.jpg#1\tHe says "no" .\n\nb.jpg#0\tx\n')
    assert read_captions(path) == expected
    path.write_text('image,caption\na.jpg,"A dog, running ."\na.jpg,"He says ""no"" ."\r\nb.jpg,x\n')
    assert read_captions(path) == expected
    path.write_text("a.jpg,A dog, running .\n")
    assert read_captions(path) == {"a.jpg": ["A dog, running ."]}
    path.write_text("a.jpg#0\tx\na.jpg\n")
    with pytest.raises(ValueError, match=r"c.txt, line 2: expected a file name"):
        read_captions(path)


def test_flickr_lists_with_faults(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path / "Images", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("a.jpg#0\tx\nb.jpg#0\ty\nc.jpg#0\tz\nghost.jpg.1#0\tz\n")
    for split, names in (("train", "a.jpg"), ("dev", "b.jpg"), ("test", "c.jpg")):
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(f"{names}\n")
    assert sizes(flickr(tmp_path, loading)) == (1, 1, 1)
    (tmp_path / "Flickr_8k.testImages.txt").write_text("c.jpg\nd.jpg\n")
    with pytest.raises(ValueError, match=r"no caption for 1 images of the test list: d.jpg"):
        flickr(tmp_path, loading).split("test")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("a.jpg\nc.jpg\n")
    with pytest.raises(ValueError, match=r"listed more than once in its splits: a.jpg"):
        flickr(tmp_path, loading).split("train")


# -- class folders -----------------------------------------------------------------------------------------------------


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


# -- a user's table ----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path, loading: Loading) -> Callable[..., Table]:
    def build(text: str, name: str = "t.csv", **changed: Any) -> Table:
        pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        (tmp_path / name).write_text(text)
        return Table(root=tmp_path, **{"table": name, **loading, **changed})

    return build


def test_other_data_of_the_same_size_are_not_gone_on_with(table: Callable[..., Table], tmp_path: Path) -> None:
    text = "image,caption,split\na.jpg,one,train\nb.jpg,two,train\n"
    states = []
    for name, written in (("t.csv", text), ("u.csv", text), ("v.csv", text.replace("two", "three"))):
        data = table(written, name, batch_size=2)
        data.setup("fit")
        states.append(data.state_dict())
        if written == text:
            data.load_state_dict(states[0])
    with pytest.raises(ValueError, match="holds other files, captions or answers than the run was trained on"):
        data.load_state_dict(states[0])


def test_columns_may_be_parted_by_tabs(table: Callable[..., Table]) -> None:
    data = table("image\tcaption\tsplit\na.jpg\tone, two\ttrain\n", "t.TSV")
    assert data.split("train")[0].captions == ("one, two",)


def test_an_empty_label_is_none(table: Callable[..., Table]) -> None:
    data = table("image,caption,split,kind\na.jpg,x,train,cat\nb.jpg,y,train,\n", label="kind")
    with pytest.raises(ValueError, match="line 3: no value for kind"):
        data.split("train")


def test_csv_rows_of_an_image_are_joined(table: Callable[..., Table]) -> None:
    data = table('image,caption,split\na.jpg,"x, y",train\na.jpg,z,train\nb.jpg,w,val\nc.jpg,v,test\n')
    assert sizes(data) == (1, 1, 1)
    assert data.split("train")[0].captions == ("x, y", "z")


def test_jsonl_with_own_columns_and_classes(table: Callable[..., Table]) -> None:
    lines = [
        {"file": "a.jpg", "texts": ["x", "y"], "kind": "dog"},
        {"file": "b.jpg", "texts": ["z"], "kind": "cat"},
    ]
    text = "\n".join(map(json.dumps, lines))
    data = table(text, "t.jsonl", table={"test": "t.jsonl"}, image="file", caption="texts", label="kind")
    assert sizes(data) == (0, 0, 2)
    assert data.class_names == ("cat", "dog")
    assert [(s.captions, s.label) for s in data.split("test")] == [(("x", "y"), 1), (("z",), 0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "t.csv",
            "image,text,split\na.jpg,x,train\n",
            r"t.csv, line 2: no value for caption \(there is image, text, split\)",
        ),
        ("t.csv", "image,caption\na.jpg,x\n", "line 2: no value for split"),
        (
            "t.csv",
            "image,caption,split\na.jpg,x,train\nb.jpg,x,dev\n",
            "line 3: 'dev' is no split; use train, val, test",
        ),
        ("t.csv", "image,caption,split\na.jpg,x,y,train\n", "line 2: more values than columns"),
        ("t.csv", "image,caption,split\na.jpg,x,train\na.jpg,x,test\n", "1 images are in train and in test: a.jpg"),
        ("t.csv", "image,caption,split\n../a.jpg,x,train\n", "line 2: the path '../a.jpg' leads out"),
        ("t.csv", "image,caption,split\na.jpg,  ,test\n", "line 2: empty caption in evaluation data"),
        (
            "t.jsonl",
            '{"image": "a.jpg", "caption": "x", "split": "train"}\n{"image"',
            "t.jsonl, line 2: not valid JSON",
        ),
        ("t.jsonl", "[1]", "t.jsonl, line 1: expected an object"),
        ("t.jsonl", '{"image": "a.jpg", "caption": 7, "split": "train"}', "line 1: a caption must be a text, not int"),
        ("t.xls", "x", "a table is a .csv, .tsv or .jsonl file"),
        (
            "t.csv",
            "image,caption,split\n./img/1.jpg,a dog,train\nimg//1.jpg,a dog,test\n",
            "1 images are in train and in test: img/1.jpg",
        ),
    ],
)
def test_table_errors_tell_file_and_line(table: Callable[..., Table], name: str, text: str, message: str) -> None:
    data = table(text, name)
    with pytest.raises(ValueError, match=message):
        [data.split(split) for split in ("train", "test")]
