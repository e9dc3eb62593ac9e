"""Which boxes each token of a text mentions, from the characters that a data set says it of (`Sample.tags`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vlp.structures import Sample, Tag, Text
from vlp.system.errors import UserError

Span = tuple[int, int, tuple[int, ...]]  # the first token after the start, the one after the last, and their boxes


def add_regions(
    tokenizer: Any, samples: Sequence[Sample], question: Text | None, choices: Text | None, rationales: Text | None
) -> tuple[Text | None, Text | None, Text | None]:
    """The same texts with `regions`, as wide in all of them.  choices, rationales: [b k t], as many of each sample as its rows.
    Raises UserError where the tokenizer makes one token of characters within and outside of a tag."""
    width = max((len(tag.boxes) for sample in samples for tag in sample.tags), default=0)
    spans = [_spans_of_texts(tokenizer, sample) for sample in samples]
    first = [1 + len(sample.choices) for sample in samples]

    def regions(text: Text | None, number: list[int]) -> Text | None:
        """number: of the first text of each sample's row."""
        if text is None:
            return None
        table: Int[Tensor, "b k t r"] = torch.full((*text.ids.shape, width), -1)
        grid = table if text.ids.ndim == 3 else table[:, None]
        for rows, found, start in zip(grid, spans, number, strict=True):
            for row, own in zip(rows, found[start:], strict=False):
                for begin, end, boxes in own:
                    row[begin:end, : len(boxes)] = torch.tensor(boxes, dtype=torch.int64)
        return dataclasses.replace(text, regions=table.masked_fill(~text.mask[..., None], -1))

    return (
        regions(question, [0] * len(samples)),
        regions(choices, [1] * len(samples)),
        regions(rationales, first),
    )


def _spans_of_texts(tokenizer: Any, sample: Sample) -> list[list[Span]]:
    """Of each of the sample's texts."""
    tags: list[list[Tag]] = [[] for _ in sample.texts]
    for tag in sample.tags:
        tags[tag.text].append(tag)
    return [list(_spans(tokenizer, text, own)) for text, own in zip(sample.texts, tags, strict=True)]


def _spans(tokenizer: Any, text: str, tags: Sequence[Tag]) -> Iterator[Span]:
    """A tag's tokens are those that its text has more than the text before it."""
    if not tags:
        return
    rules, starts = tokenizer.rules, int(tokenizer.add_start)
    ends = [text[: tag.start].rstrip() for tag in tags] + [text[: tag.end] for tag in tags]
    complete, *parts = tokenizer.encode([rules.clean(part, "caption") for part in (text, *ends)])
    for tag, before, upto in zip(tags, parts[: len(tags)], parts[len(tags) :], strict=True):
        if complete[: len(before)] != before or complete[: len(upto)] != upto:
            raise UserError(
                f"the tokenizer makes one token of {text[tag.start : tag.end]!r} and what stands beside it in {text[:80]!r}: set "
                "data.regions=false"
            )
        if tag.boxes:
            yield starts + len(before), starts + len(upto), tag.boxes
