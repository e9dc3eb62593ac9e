"""Cloze accuracy: how many words that depend on the image the masked language model predicts, one blank at a time.

Also `text_only_accuracy`, a baseline without the image: the most frequent word of the training captions between the same
neighbouring words (two on each side, else fewer).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vlp.distributed import gather_objects
from vlp.metrics.ridge_baseline import split_words
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Blank, Features, require, require_finite
from vlp.tasks.base import Task
from vlp.tokenizers.base import MASK, Tokenizer

_CONTEXT_SIZES = ((2, 2), (1, 2), (2, 1), (1, 1), (1, 0), (0, 1), (0, 0))  # words on the left and on the right
_BLANKS_PER_STEP = 512


class NeighbourBaseline:
    """Predicts a word from the words beside it: the most frequent one between them in the training captions."""

    def __init__(self, captions: Iterator[str]) -> None:
        counts: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
        for caption in captions:
            words = ["", "", *split_words(caption), "", ""]
            for position in range(2, len(words) - 2):
                for key in _context_keys(words[position - 2 : position], words[position + 1 : position + 3]):
                    counts[key][words[position]] += 1
        self.best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}

    def guess(self, left: str, right: str) -> str:
        """The word between two texts."""
        before, after = ["", "", *split_words(left)], [*split_words(right), "", ""]
        return next((self.best[key] for key in _context_keys(before[-2:], after[:2]) if key in self.best), "")


def _context_keys(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """From the largest context to the empty one."""
    for before, after in _CONTEXT_SIZES:
        yield (before, after, *left[2 - before :], *right[:after])


class Cloze(Task):
    """Uses the head of `mlm`. Needs samples with `blanks` (generated scenes)."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("memory",)
    heads = ("mlm",)

    def __init__(self, *, weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None) -> None:
        super().__init__(weight=weight, sources=sources)
        self._baselines: dict[str, NeighbourBaseline] = {}  # by source

    def reset(self) -> None:
        self._counts: Counter[str] = Counter()
        self._left_out = 0

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer, self._data = tokenizer, data

    def applies(self, batch: Batch, source: str) -> bool:
        has_blanks = batch.raw is not None and any(sample.blanks for sample in batch.raw)
        return has_blanks and super().applies(batch, source)

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        self._left_out += sum(not sample.blanks for sample in require(batch.raw))
        blanks = [
            (row, sample.captions[blank.caption], blank)
            for row, sample in enumerate(require(batch.raw))
            for blank in sample.blanks
        ]
        for start in range(0, len(blanks), _BLANKS_PER_STEP):
            part = blanks[start : start + _BLANKS_PER_STEP]
            for (_, caption, blank), word in zip(part, self._predict_words(model, features, part), strict=True):
                guess = self._baseline().guess(caption[: blank.start], caption[blank.end :])
                for kind in ("", f"_{blank.kind}"):
                    self._counts[f"blanks{kind}"] += 1
                    self._counts[f"accuracy{kind}"] += word in blank.words
                    self._counts[f"text_only_accuracy{kind}"] += guess in blank.words

    def left_out(self) -> int:
        return self._left_out

    def _baseline(self) -> NeighbourBaseline:
        """Of the source's training captions; counted once."""
        if self._data.name not in self._baselines:
            self._baselines[self._data.name] = NeighbourBaseline(self._data.train_captions())
        return self._baselines[self._data.name]

    def _predict_words(
        self, model: VisionLanguageModel, features: Features, blanks: Sequence[tuple[int, str, Blank]]
    ) -> list[str]:
        """The most probable word for each (row of the batch, caption, blank), from as many masks as the blank's word has
        tokens."""
        assert features.memory is not None
        texts = []
        for _, caption, blank in blanks:
            pieces = len(self._tokenizer.encode([caption[blank.start : blank.end]])[0])
            texts.append(f"{caption[: blank.start]}{' '.join([MASK] * pieces)}{caption[blank.end :]}")
        text, chosen = self._tokenizer.encode_masked(texts)
        device = next(model.parameters()).device
        rows = torch.tensor([row for row, _, _ in blanks], device=device)
        memory = features.memory.select(rows)
        logits = self.linked["mlm"].logits(model, text.to(device), memory, chosen.to(device))
        best = require_finite(logits, "logits of the masked words").argmax(1).cpu()
        return [self._tokenizer.decode_with_specials(ids.tolist()) for ids in best.split(chosen.sum(1).tolist())]

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """In percent, of all blanks and of each kind."""
        counts: Counter[str] = Counter()
        for part in gather_objects(self._counts):
            counts.update(part)  # the sum of counters would drop zeros
        return {
            name: 100 * correct / counts["blanks" + name.partition("accuracy")[2]]
            for name, correct in sorted(counts.items())
            if "accuracy" in name
        }
