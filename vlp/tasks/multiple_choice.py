"""Multiple choice: which of a question's own choices the decoder finds most probable, such as A-OKVQA's four.

Schwenk et al., arXiv:2206.01718, §3; the choices are ranked as VQA's answers are, by their log-probability after the question and
the photo. The decoder learns from direct answers (task vqa with weight 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp import distributed
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, CrossAttentionCache, Features, Tokens, require
from vlp.system.errors import UserError
from vlp.tasks.base import Task, write_results
from vlp.tasks.vqa import rank_answers
from vlp.tokenizers.base import Tokenizer


class MultipleChoice(Task):
    """results_file: the choices, in the same rows as the task vqa writes."""

    requires = ("image", "question", "choices", "label")
    needs = ("vision", "text", "fusion", "decoder")
    uses = ("memory",)

    def __init__(
        self,
        *,
        results_file: str | Path | None = None,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if weight:
            raise UserError("multiple_choice has no loss of its own: train with task=[vqa], and leave its weight at 0")
        self.results_file = None if results_file is None else Path(results_file)

    def prepare(self, model: VisionLanguageModel, tokenizer: Tokenizer, data: Any) -> None:
        self._tokenizer, self._data = tokenizer, data

    def reset(self) -> None:
        self._chosen: list[
            tuple[int, str, bool | None, int]
        ] = []  # question, choice, whether right, how many there were

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if batch.raw is None:
            raise UserError("multiple_choice reads the choices' texts: it needs batches with `raw` samples")
        chosen = self._choose(model, batch, features)
        for sample, index in zip(batch.raw, chosen, strict=True):
            if index is not None:
                right = None if sample.label is None else index == sample.label
                self._chosen.append((sample.sample, sample.choices[index], right, len(sample.choices)))

    def _choose(self, model: VisionLanguageModel, batch: Batch, features: Features) -> list[int | None]:
        """Of each question, one by one: its choices are its own. None = it has none."""
        memory: CrossAttentionCache | Tokens | None = features.memory
        assert memory is not None
        fused = model.fuse(model.encode_text(require(batch.question)), memory)
        result: list[int | None] = []
        for row, sample in enumerate(require(batch.raw)):
            if not sample.choices:
                result.append(None)
                continue
            texts = self._tokenizer(list(sample.choices), kind="answer").to(fused.states.device)
            index: Tensor = rank_answers(model, fused.select([row]), texts, candidates=len(sample.choices))[0]
            result.append(int(index[0, 0]))
        return result

    def left_out(self) -> int:
        return sum(right is None for _, _, right, _ in self._chosen)

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """accuracy in percent, and that of chance; without right choices (test servers) only the number of questions."""
        chosen = sorted(
            distributed.gather_lists(self._chosen), key=lambda row: row[0]
        )  # the same for any number of ranks
        write_results(
            self.results_file, [{"question_id": name, "multiple_choice": text} for name, text, _, _ in chosen]
        )
        known = [(right, count) for _, _, right, count in chosen if right is not None]
        figures: dict[str, float | None] = {"questions": float(len(chosen))}
        if known:
            figures["accuracy"] = 100 * sum(right for right, _ in known) / len(known)
            figures["chance"] = 100 * sum(1 / count for _, count in known) / len(known)
        return figures
