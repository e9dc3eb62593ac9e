"""How many of the words that the picture decides the masked language model finds, one taken out of a caption at a time.

Beside it `text_only_accuracy`: what the words around the blank tell without the picture, by the most frequent word between
the same neighbours in the training captions (two on each side, else fewer).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vlp.distributed import gather_objects
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Blank, Features
from vlp.tasks.base import Task
from vlp.tokenizers.base import MASK, Tokenizer

_SPANS = ((2, 2), (1, 2), (2, 1), (1, 1), (1, 0), (0, 1), (0, 0))  # neighbours on the left and on the right


class Neighbours:
    """The most frequent word of the training captions between given neighbours."""

    def __init__(self, captions: Iterator[str]) -> None:
        counts: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        for caption in captions:
            words = ["", "", *re.findall(r"\w+", caption.lower()), "", ""]
            for place in range(2, len(words) - 2):
                for key in _keys(words[place - 2 : place], words[place + 1 : place + 3]):
                    counts[key][words[place]] += 1
        self.best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}

    def guess(self, left: str, right: str) -> str:
        before, after = ["", "", *re.findall(r"\w+", left.lower())], [*re.findall(r"\w+", right.lower()), "", ""]
        return next((self.best[key] for key in _keys(before[-2:], after[:2]) if key in self.best), "")


def _keys(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for before, after in _SPANS:
        yield (before, after, *left[2 - before :], *right[:after])


class Cloze(Task):
    """Uses the head of `mlm`. Needs samples with `blanks` (generated scenes)."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("memory",)
    heads = ("mlm",)

    def __init__(self, *, weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None) -> None:
        super().__init__(weight=weight, sources=sources)
        self._known: dict[str, Neighbours] = {}

    def reset(self) -> None:
        self._counts: Counter[str] = Counter()

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer, self._data = tokenizer, data

    def applies(self, batch: Batch, source: str) -> bool:
        known = batch.raw is not None and any(sample.blanks for sample in batch.raw)
        return known and super().applies(batch, source)

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        assert batch.raw is not None
        assert features.memory is not None
        asked = [
            (row, sample.captions[blank.caption], blank)
            for row, sample in enumerate(batch.raw)
            for blank in sample.blanks
        ]
        for start in range(0, len(asked), 512):
            part = asked[start : start + 512]
            for (_, caption, blank), word in zip(part, self._filled(model, features, part), strict=True):
                guess = self._neighbours().guess(caption[: blank.start], caption[blank.end :])
                for kind in ("", f"_{blank.kind}"):
                    self._counts[f"asked{kind}"] += 1
                    self._counts[f"accuracy{kind}"] += word in blank.words
                    self._counts[f"text_only_accuracy{kind}"] += guess in blank.words

    def _neighbours(self) -> Neighbours:
        """Of the source's training captions; counted once."""
        if self._data.name not in self._known:
            self._known[self._data.name] = Neighbours(self._data.train_captions())
        return self._known[self._data.name]

    def _filled(
        self, model: VisionLanguageModel, features: Features, asked: Sequence[tuple[int, str, Blank]]
    ) -> list[str]:
        """The most probable word of each blank; as many masks as the right word has tokens."""
        assert features.memory is not None
        texts = []
        for _, caption, blank in asked:
            pieces = len(self._tokenizer.encode([caption[blank.start : blank.end]])[0])
            texts.append(f"{caption[: blank.start]}{' '.join([MASK] * pieces)}{caption[blank.end :]}")
        text, chosen = self._tokenizer.cloze(texts)
        device = next(model.parameters()).device
        rows = torch.tensor([row for row, _, _ in asked], device=device)
        memory = features.memory.select(rows)
        best = self.linked["mlm"].logits(model, text.to(device), memory, chosen.to(device)).argmax(1).cpu()
        return [self._tokenizer.spell(found.tolist()) for found in best.split(chosen.sum(1).tolist())]

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        """In percent, of all blanks and of each kind."""
        counts: Counter[str] = Counter()
        for part in gather_objects(self._counts):
            counts.update(part)  # a sum of counters would drop what was never right
        return {
            name: 100 * right / counts["asked" + name.partition("accuracy")[2]]
            for name, right in sorted(counts.items())
            if "accuracy" in name
        }
