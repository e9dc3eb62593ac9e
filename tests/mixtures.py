"""A mixture of three small sources for tests: two with captions, one with questions, one of them not evaluated."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.data.transforms import EvalTransform, TrainTransform
from vlp.structures import Sample, Text


class Words:
    """A tokenizer: each byte is a token."""

    trained = True

    def __call__(self, texts: list[str], *, kind: str = "caption") -> Text:
        rows = [[1, *text.encode()[:9]] + ([2] if kind == "answer" else []) for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, letters in zip(ids, rows, strict=True):
            row[: len(letters)] = torch.tensor(letters)
        return Text(ids=ids, mask=ids > 0)


class Pictures(DataModule):
    """`count` training samples with one image and captions, or with questions if `asks`."""

    def __init__(self, *, count: int, asks: bool = False, evaluated: int = 3, **loading: Any) -> None:
        super().__init__(**loading)
        self.count, self.asks, self.evaluated = count, asks, evaluated

    def prepare_data(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val", "test"):
            written = self.root / f"{os.getpid()}.png"  # ranks may write it at the same time
            PIL.Image.new("RGB", (8, 8), (200, 100, 0)).save(written)
            written.replace(self.image_of(split))

    def image_of(self, split: str) -> Path:
        """The one file of a split."""
        return self.root / f"{split}.png"

    def samples(self, split: str) -> list[Sample]:
        if self.asks:
            self.answer_names = ("yes", "no")
        first, count = (0, self.count) if split == "train" else (1000, self.evaluated)
        texts: dict[str, Any] = (
            {"question": "is it?", "answers": ("yes",)} if self.asks else {"captions": (f"a {self.name}", "it")}
        )
        return [Sample(id=i, sample=i, image=self.image_of(split), **texts) for i in range(first, first + count)]


def mixture(root: Path, **changed: Any) -> Mixture:
    workers = changed.pop("workers", 0)
    common = {"root": root, "num_workers": workers, "eval_batch_size": 2}
    sources = {
        "words": functools.partial(Pictures, name="unused", count=13, batch_size=4, **common),
        "asked": functools.partial(Pictures, name="unused", count=5, batch_size=2, asks=True, **common),
        "rare": functools.partial(Pictures, name="unused", count=40, batch_size=2, evaluated=0, **common),
    }
    sources |= changed.pop("sources", {})
    transform = {"train": TrainTransform(image_size=8, flip=True), "eval": EvalTransform(image_size=8)}
    settings = {"name": "mix", "transform": transform, "tokenizer": Words(), "seed": 3, "epoch": "words"}
    data = Mixture(sources=sources, **{**settings, **changed})
    data.prepare_data()
    return data
