"""RefCOCO's files: pickles of Python 2 read as data, splits with their quirk, a box of each phrase."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from tests.datasets.splits import sizes
from vlp.data.issues import DataError, Faults
from vlp.datasets.refcoco import RefCOCO, is_of_split
from vlp.system.errors import UserError

Loading = dict[str, Any]


def ref(number: int, image: int, thing: int, split: str, *phrases: str) -> dict[str, Any]:
    sentences = [
        {"tokens": text.split(), "raw": text.upper(), "sent": text, "sent_id": number * 10 + i}
        for i, text in enumerate(phrases)
    ]
    return {
        "ref_id": number, "ann_id": thing, "category_id": 1, "image_id": image, "split": split, "sentences": sentences,
        "sent_ids": [s["sent_id"] for s in sentences], "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
    }  # fmt: skip


REFS = [
    ref(0, 1, 10, "train", "left man", "man in red"), ref(1, 1, 11, "train", "dog"), ref(2, 2, 20, "val", "the cup"),
    ref(3, 3, 30, "testA", "tall man"), ref(4, 3, 31, "testB", "table"), ref(5, 3, 31, "testAB", "wood"),
]  # fmt: skip


def write(root: Path, refs: Any = REFS, *, protocol: int = 0) -> Path:
    (root / "refcoco").mkdir(exist_ok=True)
    (root / "train2014").mkdir(exist_ok=True)
    photos = [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "width": 20, "height": 10} for i in (1, 2, 3)]
    things = [
        {"id": number, "image_id": number // 10, "bbox": [number % 10, 1, 8, 6], "category_id": 1, "iscrowd": 0,
         "segmentation": [[1, 1, 9, 1, 9, 7, 1, 7]]}
        for number in (10, 11, 20, 30, 31)
    ]  # fmt: skip
    content = {"images": photos, "annotations": things, "categories": [{"id": 1, "name": "thing"}]}
    (root / "refcoco/instances.json").write_text(json.dumps(content))
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    for photo in photos:
        PIL.Image.new("RGB", (20, 10)).save(root / "train2014" / str(photo["file_name"]))
    return root


def read(root: Path, loading: Loading, *, test: str | None = "testA", **changed: Any) -> RefCOCO:
    splits = {"train": "train", "val": "val", "test": test}
    return RefCOCO(root=root, **{"folder": "refcoco", "refs": "refs(unc).p", "splits": splits, **changed}, **loading)


@pytest.mark.parametrize("protocol", [0, 2])
def test_phrases_and_boxes_of_each_split(tmp_path: Path, loading: Loading, protocol: int) -> None:
    data = read(write(tmp_path, protocol=protocol), loading, masks=True)
    assert sizes(data) == (1, 1, 1)
    (photo,) = data.split("train")
    assert photo.captions == ("left man", "man in red", "dog")
    assert photo.boxes == ((0, 1, 8, 7), (0, 1, 8, 7), (1, 1, 9, 7))
    assert (photo.id, photo.box_labels, len(photo.box_masks), photo.as_stored) == (1, (), 3, True)
    (people,) = data.split("test")
    assert people.captions == ("tall man", "wood")
    (others,) = read(tmp_path, loading, test="testB").split("test")
    assert others.captions == ("table", "wood")
    assert data.ground_truth("val").name == "instances.json"
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.boxes[0].label.tolist() == [0, 1]
    assert batch.caption.ids.shape[:2] == (1, 2)


def test_strings_of_python_2_are_texts(tmp_path: Path, loading: Loading) -> None:
    """As cPickle wrote them, protocol 0: S'…' is a byte string, V… a unicode one."""
    write(tmp_path)
    written = (
        b"(lp0\n(dp1\nS'ref_id'\nI7\nsS'ann_id'\nI20\nsS'image_id'\nI2\nsS'split'\nS'val'\nsS'sentences'\n(lp2\n(dp3\n"
        b"S'sent'\nS'the caf\\xe9'\nsS'sent_id'\nI1\nsa(dp4\nVsent\nVa c\\u00fcp\nsasa."
    )
    (tmp_path / "refcoco/refs(unc).p").write_bytes(written)
    (photo,) = read(tmp_path, loading).samples("val")
    assert photo.captions == ("the café", "a cüp")


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, loading: Loading) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch called",)

    write(tmp_path)
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Call()], protocol=2))
    with pytest.raises(UserError, match="system"):
        read(tmp_path, loading).split("train")
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps([torch.nn.Linear], protocol=2))
    with pytest.raises(UserError, match="Linear"):
        read(tmp_path, loading).split("train")


def test_splits_are_those_of_refer() -> None:
    kinds = ("train", "val", "test", "testA", "testB", "testC", "testAB", "testBC")
    of = {
        asked: [kind for kind in kinds if is_of_split(kind, asked)]
        for asked in ("train", "test", "testA", "testB", "testBC")
    }
    assert of == {
        "train": ["train"], "test": list(kinds[2:]), "testA": ["testA", "testAB"], "testB": ["testB", "testAB", "testBC"],
        "testBC": ["testBC"],
    }  # fmt: skip


def test_a_check_counts_faults_and_photos_that_coco_trains_on(tmp_path: Path, loading: Loading) -> None:
    refs = [
        *REFS, ref(6, 9, 10, "val", "x"), ref(7, 2, 10, "val", "other photo's thing"), ref(8, 2, 20, "val", " "),
        {**ref(9, 2, 20, "val"), "sentences": None},
    ]  # fmt: skip
    data = read(write(tmp_path, refs), loading, test="testC")
    data.faults = Faults(collect=True)
    assert [sample.captions for sample in data.samples("val")] == [("the cup",)]
    assert data.samples("test") == []
    assert {(fault.kind, fault.fatal): fault.count for fault in data.faults.issues.values()} == {
        ("annotation of an unknown image", True): 1, ("unknown thing", True): 1, ("empty caption", True): 1,
        ("unexpected structure", True): 1, ("photo of COCO's train2014", False): 1, ("unknown split", True): 1,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"has no phrases of 'testC' .*: it has testA, testAB, testB, train, val"):
        read(write(tmp_path), loading, test="testC").split("test")
    (tmp_path / "refcoco/instances.json").unlink()
    with pytest.raises(FileNotFoundError, match="instances of toy is missing"):
        read(tmp_path, loading).split("train")
