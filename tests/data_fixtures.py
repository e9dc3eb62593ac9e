"""Fixtures for tests of data: a small data set of random images in Karpathy's layout, and a tokenizer without a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from vlp.data.shards.pack import PackOptions, pack_splits
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.shards import Shards
from vlp.structures import Text


class Letters:
    """A tokenizer: each byte is a token, long texts are truncated."""

    size, context_length, trained = 256, 16, True

    def __call__(self, texts: list[str], *, kind: str = "caption") -> Text:
        rows = [[1, *text.encode()[:14], 2] for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, letters in zip(ids, rows, strict=True):
            row[: len(letters)] = torch.tensor(letters)
        return Text(ids=ids, mask=ids > 0)


@pytest.fixture
def loading() -> dict[str, Any]:
    """The arguments that all data sets share."""
    transform = {"train": TrainTransform(image_size=16, flip=True), "eval": EvalTransform(image_size=16)}
    return {
        "name": "toy",
        "transform": transform,
        "tokenizer": Letters(),
        "batch_size": 4,
        "eval_batch_size": 3,
        "seed": 5,
    }


@pytest.fixture
def write_toy(tmp_path: Path) -> Callable[..., Path]:
    def write(train: int = 13, val: int = 5, test: int = 3, captions: int = 3) -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        records: list[dict[str, Any]] = []
        for split, count in (("train", train), ("val", val), ("test", test)):
            for _ in range(count):
                number = len(records)
                noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
                PIL.Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
                sentences = [{"raw": f"{number} caption {k}"} for k in range(captions + number % 2)]
                record = {"split": split, "filename": f"{number}.png", "imgid": number, "sentences": sentences}
                records.append(record)
        (tmp_path / "dataset.json").write_text(json.dumps({"images": records}))
        return tmp_path

    return write


@pytest.fixture
def toy(write_toy: Callable[..., Path], loading: dict[str, Any]) -> Callable[..., Karpathy]:
    def build(sizes: dict[str, int] | None = None, **changed: Any) -> Karpathy:
        root = write_toy(**(sizes or {}))
        return Karpathy(root=root, annotations="dataset.json", images="images", **{**loading, **changed})

    return build


@pytest.fixture
def packed(toy: Callable[..., Karpathy], tmp_path: Path) -> Callable[..., Path]:
    """Packs the toy data set (by default 37 training samples) into shards; returns their folder."""

    def write(sizes: dict[str, int] | None = None, **options: Any) -> Path:
        data = toy({"train": 37, "val": 5, "test": 5, **(sizes or {})})
        splits = {split: data.split(split) for split in ("train", "val", "test")}
        pack_splits(
            splits, tmp_path / "shards", PackOptions(**{"samples_per_shard": 7, "max_bad_fraction": 1.0, **options})
        )
        return tmp_path / "shards"

    return write


@pytest.fixture
def shards(loading: dict[str, Any], tmp_path: Path) -> Callable[..., Shards]:
    def build(root: str | Path, **changed: Any) -> Shards:
        return Shards(**{**loading, "root": root, "cache": tmp_path / "cache", "block": 2, **changed})

    return build
