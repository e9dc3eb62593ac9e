from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.splits import pictures, sizes
from vlp.datasets.karpathy import Karpathy

Loading = dict[str, Any]


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
