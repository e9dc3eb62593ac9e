"""Splits that share files, in every layout that can name a file twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets import test_vqa_v2 as official
from tests.datasets.splits import pictures
from tests.tars import jpeg, write
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError, Faults
from vlp.datasets.class_folders import ClassFolders
from vlp.datasets.salesforce_json import SalesforceJson
from vlp.datasets.shards import Shards
from vlp.datasets.vqa_v2 import VQAv2

Loading = dict[str, Any]


def shards(root: Path, loading: Loading, **splits: Any) -> Shards:
    for number in range(3):
        write(root / f"{number}.tar", [(f"{number}.jpg", jpeg()), (f"{number}.txt", b"a dog")])
    return Shards(root=root, splits=splits, cache=root / "cache", **loading)


def read(data: DataModule) -> None:
    for split in ("train", "val", "test"):
        data.split(split)


@pytest.mark.parametrize(("train", "test"), [("{0..2}.tar", "2.tar"), ("*.tar", "1.tar"), ("./1.tar", "1.tar")])
def test_a_shard_of_two_splits_is_refused_with_the_first_of_them(
    tmp_path: Path, loading: Loading, train: str, test: str
) -> None:
    for split in ("train", "test"):
        with pytest.raises(DataError, match=rf"1 shards are in .*: {tmp_path}/{test}; give each split its own"):
            shards(tmp_path, loading, train=train, test=test).split(split)
    data = shards(tmp_path, loading, train=train, test=test)
    data.faults = Faults(collect=True)  # as `vlp data check` does
    data.samples("train")
    assert ("shard in two splits", True) in data.faults.issues
    assert len(shards(tmp_path, loading, train="{0..1}.tar", val="none.tar").split("train")) == 2


def test_questions_that_are_trained_on_and_measured_are_refused(tmp_path: Path, loading: Loading) -> None:
    for split, image in (("train2014", 1), ("val2014", 2)):
        official.write(tmp_path, split, [(image, "What?", ["red"] * 10)])

    def vqa(**splits: Any) -> VQAv2:
        return VQAv2(root=tmp_path, splits=splits, min_answer_count=1, **loading)

    read(vqa(train="train2014", val="val2014"))
    for splits in ({"train": ["train2014", "val2014"], "val": "val2014"}, {"train": "val2014", "test": "val2014"}):
        with pytest.raises(DataError, match=r"1 images are in train and in .*COCO_val2014"):
            read(vqa(**splits))
    with pytest.warns(UserWarning, match=r"1 images are in val and in test.*not of unseen images"):
        read(vqa(train="train2014", val="val2014", test="val2014"))


@pytest.mark.parametrize("splits", [{"train": ".", "val": "val"}, {"train": "train", "val": "train"}])
def test_class_folders_within_another_split_are_refused(tmp_path: Path, loading: Loading, splits: Any) -> None:
    pictures(tmp_path, "train/a/1.jpg", "val/b/1.jpg")
    with pytest.raises(DataError, match="1 images are in train and in val"):
        read(ClassFolders(root=tmp_path, splits=splits, **loading))


def test_one_file_is_one_image_however_its_path_is_written(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "0.jpg")
    for name, path in (("train", "./0.jpg"), ("test", "0.jpg")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"image": path, "caption": "a dog"}]))
    with pytest.raises(DataError, match="1 images are in train and in test"):
        read(SalesforceJson(root=tmp_path, files={"train": "train.json", "test": "test.json"}, **loading))
