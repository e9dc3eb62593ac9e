"""Greedy and beam search in numpy against vlp.models.generation, id for id, and texts' losses against torch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from vlp.deploy.runtime.decoding import token_losses
from vlp.deploy.runtime.generate import SearchRules, beam_search, best_of, greedy_search, log_softmax
from vlp.models import generation
from vlp.system.errors import UserError

WORDS, END, PAD = 11, 2, 0


@dataclass(frozen=True)
class Rows:
    """A decoder's state: which language each row speaks, and its last token."""

    language: Any
    length: int

    def select(self, index: Any) -> Rows:
        return Rows(self.language[index], self.length)


class Languages:
    """Logits of the next token depend on the row's language, the last token and the position."""

    def __init__(self, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(0, 1.5, (4, WORDS, 16, WORDS)).astype(np.float32)

    def _logits(self, language: Any, last: Any, length: int) -> Any:
        return self.table[np.asarray(language), np.asarray(last), min(length, 15)]

    def start(self, ids: np.ndarray) -> tuple[np.ndarray, Rows]:
        language = np.arange(len(ids)) % 4
        return self._logits(language, ids[:, -1], ids.shape[1]), Rows(language, ids.shape[1])

    def step(self, ids: np.ndarray, cache: Rows) -> tuple[np.ndarray, Rows]:
        cache = Rows(cache.language, cache.length + 1)
        return self._logits(cache.language, ids[:, -1], cache.length), cache

    def torch_step(self, ids: torch.Tensor, cache: Rows) -> tuple[torch.Tensor, Rows]:
        cache = Rows(cache.language, cache.length + ids.shape[1])
        return torch.from_numpy(self._logits(cache.language, ids[:, -1], cache.length)), cache


@pytest.mark.parametrize("beams", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_length": 6},
        {"repetition_penalty": 1.4},
        {"max_length": 3},
        {"min_length": 4, "repetition_penalty": 0.8},
    ],
)
def test_the_ids_of_torchs_search(beams: int, options: dict[str, Any]) -> None:
    """beams 0: greedy."""
    limits = {"end_id": END, "pad_id": PAD, "max_length": 9} | options
    ended = 0
    for seed in range(12):
        languages, prompt = Languages(seed), np.random.default_rng(seed).integers(3, WORDS, (6, 1 + seed % 2))
        penalty = (1.0, 0.0, 2.0, -1.0)[seed % 4]
        cache, tensor = Rows(torch.arange(6) % 4, 0), torch.from_numpy(prompt)
        ours, theirs = SearchRules(**limits), generation.GenerationRules(**limits)
        if beams:
            found = beam_search(languages, prompt, ours, beams=beams, length_penalty=penalty)
            wanted = generation.beam_search(
                languages.torch_step, cache, tensor, theirs, beams=beams, length_penalty=penalty
            )
        else:
            found = greedy_search(languages, prompt, ours)
            wanted = generation.greedy_search(languages.torch_step, cache, tensor, theirs)
        np.testing.assert_array_equal(found, wanted.numpy())
        ended += int((found == END).any(1).sum())
    assert found.dtype == np.int64
    assert ended > 0


def test_a_prompt_of_max_length_and_scores_that_are_not_finite_are_errors() -> None:
    languages, prompt = Languages(0), np.full((2, 9), 3)
    rules = SearchRules(end_id=END, pad_id=PAD, max_length=9)
    with pytest.raises(UserError, match="a prompt of 9 tokens is not shorter than max_length=9"):
        beam_search(languages, prompt, rules, beams=2)
    with pytest.raises(UserError, match="a prompt of 9 tokens is not shorter"):
        greedy_search(languages, prompt, rules)
    languages.table[...] = np.nan
    with pytest.raises(UserError, match="scores of the next token contain NaN or infinity"):
        greedy_search(languages, prompt[:, :1], rules)


def test_log_softmax_and_smoothed_losses_are_torchs() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (7, 50)).astype(np.float32)
    token = np.arange(7) * 7
    tensor = torch.from_numpy(logits)
    np.testing.assert_allclose(log_softmax(logits), tensor.log_softmax(1).numpy(), rtol=1e-5, atol=1e-5)
    for smoothing in (0.0, 0.1):
        loss = torch.nn.functional.cross_entropy(
            tensor, torch.from_numpy(token), reduction="none", label_smoothing=smoothing
        )
        np.testing.assert_allclose(token_losses(logits, token, label_smoothing=smoothing), loss.numpy(), rtol=1e-5)


def test_the_first_of_equal_values_comes_first() -> None:
    values = np.array([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    best, index = best_of(values, 4)
    np.testing.assert_array_equal(index, [[1, 2, 4, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(best[0], [3, 3, 3, 2])
    assert best_of(values, 9)[1].shape == (2, 5)
