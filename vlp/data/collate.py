"""Loaded examples → `Batch`. It runs in the data workers, tokenizer included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.structures import Batch, Image, Sample, Text

Tokenizer = Callable[[Sequence[str]], Text]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample whose image has been decoded and transformed, and the captions chosen for this visit."""

    sample: Sample
    seed: int
    pixels: Tensor  # uint8 [3 h w]
    captions: tuple[str, ...]


def tokenize_rows(tokenizer: Tokenizer, rows: Sequence[Sequence[str]]) -> Text | None:
    """Texts of rows of different lengths as [b k t], rows filled up with empty, masked texts; None without any text."""
    flat = [text for row in rows for text in row]
    if not flat:
        return None
    text = tokenizer(flat)
    shape = (len(rows), max(map(len, rows)), text.ids.shape[1])
    ids, mask = torch.zeros(shape, dtype=text.ids.dtype), torch.zeros(shape, dtype=torch.bool)
    real = torch.arange(shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    ids[real], mask[real] = text.ids, text.mask
    return Text(ids=ids, mask=mask)


@dataclass(frozen=True, kw_only=True)
class Collate:
    """classes: how many class names the data set has.  Training with one caption a sample gives captions [b t]."""

    tokenizer: Tokenizer | None
    classes: int
    training: bool
    one_caption: bool = False

    def _text(self, rows: Sequence[Sequence[str]]) -> Text | None:
        if not any(rows):
            return None
        if self.tokenizer is None:
            raise ValueError("the data have captions and no tokenizer was given to turn them into tokens")
        if self.one_caption and all(len(row) == 1 for row in rows):
            return self.tokenizer([row[0] for row in rows])
        return tokenize_rows(self.tokenizer, rows)

    def __call__(self, examples: Sequence[Example]) -> Batch:
        samples = [example.sample for example in examples]
        choices = [sample.choices for sample in samples]
        labels = [-1 if sample.label is None else sample.label for sample in samples]
        categories = None
        if self.classes and all(sample.label is None for sample in samples):  # images that show none of them count too
            categories = torch.zeros(len(samples), self.classes, dtype=torch.bool)
            for row, sample in zip(categories, samples, strict=True):
                row[list(sample.categories)] = True
        return Batch(
            id=torch.tensor([sample.id for sample in samples]),
            sample=torch.tensor([sample.sample for sample in samples]),
            seed=torch.tensor([example.seed for example in examples]),
            image=Image(pixels=torch.stack([example.pixels for example in examples])),
            caption=self._text([example.captions for example in examples]),
            choices=None if not any(choices) or self.tokenizer is None else tokenize_rows(self.tokenizer, choices),
            label=torch.tensor(labels) if any(label >= 0 for label in labels) else None,
            categories=categories,
            raw=None if self.training else tuple(samples),
        )
