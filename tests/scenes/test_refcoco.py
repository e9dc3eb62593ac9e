"""RefCOCO's files of generated scenes: keys, splits and numbers, and a pickle that names no class."""

from __future__ import annotations

import pickle
import pickletools
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.scenes.conftest import load

KEYS = {"ref_id": int, "ann_id": int, "category_id": int, "image_id": int, "file_name": str, "split": str, "sent_ids": list,
        "sentences": list}  # fmt: skip


def refs_of(root: Path) -> list[dict[str, Any]]:
    return pickle.loads((root / "refcoco/refs(unc).p").read_bytes())


def test_the_pickle_has_protocol_2_and_no_class(referring: Path) -> None:
    codes = list(pickletools.genops((referring / "refcoco/refs(unc).p").read_bytes()))
    assert codes[0][0].name == "PROTO"
    assert codes[0][1] == 2
    assert not {code.name for code, *_ in codes} & {
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
        "INST",
        "OBJ",
        "NEWOBJ",
    }


def test_refs_have_the_official_keys_and_numbers(referring: Path) -> None:
    refs = refs_of(referring)
    for ref in refs:
        assert {key: type(value) for key, value in ref.items()} == KEYS
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        for sentence in ref["sentences"]:
            assert sentence.keys() == {"tokens", "raw", "sent", "sent_id"}
            assert sentence["tokens"] == sentence["sent"].split()
    assert [ref["ref_id"] for ref in refs] == list(range(len(refs)))
    numbers = [number for ref in refs for number in ref["sent_ids"]]
    assert numbers == list(range(len(numbers)))


def test_refs_agree_with_the_instances_and_the_splits(referring: Path) -> None:
    content = load(referring, "refcoco/instances.json")
    annotations = {a["id"]: a for a in content["annotations"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    splits: dict[str, set[str]] = defaultdict(set)
    shapes: dict[str, set[str]] = defaultdict(set)
    for ref in refs_of(referring):
        annotation = annotations[ref["ann_id"]]
        assert (annotation["image_id"], annotation["category_id"]) == (ref["image_id"], ref["category_id"])
        assert ref["file_name"] == files[ref["image_id"]]
        assert (referring / ref["file_name"]).is_file()
        splits[ref["split"]].add(ref["file_name"].split("/")[0])
        shapes[ref["split"]].add(names[ref["category_id"]])
    assert splits == {"train": {"train", "restval"}, "val": {"val"}, "testA": {"test"}, "testB": {"test"}}
    assert shapes["testA"] == {"circle", "square"}
    assert shapes["testB"]
    assert not shapes["testB"] & shapes["testA"]
    official = [
        a
        for split in ("train", "restval", "val", "test")
        for a in load(referring, f"annotations/instances_{split}.json")["annotations"]
    ]
    assert content["annotations"] == official
