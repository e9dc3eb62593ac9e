"""Texts from a decoder's graphs, token by token: greedy and beam search in numpy, id for id those of `vlp.models.generation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.deploy.runtime.equal_inputs import require_finite
from vlp.system.errors import UserError


@runtime_checkable
class Decoder(Protocol):
    """cache: of as many rows as the ids, with `select(index)`; rows stay with their own image, side by side."""

    def start(self, ids: Int[np.ndarray, "b n"]) -> tuple[Float[np.ndarray, "b v"], Any]:
        """Logits of the token after a prompt, and the cache."""

    def step(self, ids: Int[np.ndarray, "r 1"], cache: Any) -> tuple[Float[np.ndarray, "r v"], Any]:
        """The same after one more token of each row."""


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """See `vlp.models.generation.GenerationRules`.  Lengths are in tokens, prompt included."""

    end_id: int
    pad_id: int
    max_length: int = 30
    min_length: int = 0
    repetition_penalty: float = 1.0

    def adjust_scores(self, scores: Float[np.ndarray, "r v"], ids: Int[np.ndarray, "r n"]) -> Float[np.ndarray, "r v"]:
        """scores: logits or log-probabilities of the token after `ids`; −∞ = impossible.  Raises UserError where the highest of a
        row is not finite."""
        require_finite(scores.max(1), "scores of the next token")
        scores = scores.astype(np.float32)
        if self.repetition_penalty != 1.0:
            repeated, penalty = np.take_along_axis(scores, ids, 1), np.float32(self.repetition_penalty)
            np.put_along_axis(scores, ids, np.where(repeated < 0, repeated * penalty, repeated / penalty), 1)
        if ids.shape[1] < self.min_length:
            scores[:, self.end_id] = -np.inf
        return scores

    def check_prompt(self, prompt: Int[np.ndarray, "b n"]) -> None:
        if prompt.shape[1] >= self.max_length:
            raise UserError(
                f"a prompt of {prompt.shape[1]} tokens is not shorter than max_length={self.max_length}: export with a greater one"
            )


def greedy_search(decoder: Decoder, prompt: Int[np.ndarray, "b n"], rules: SearchRules) -> Int[np.ndarray, "b t"]:
    """The most probable token each time; the result begins with the prompt."""
    rules.check_prompt(prompt)
    ids, ended = prompt, np.zeros(len(prompt), dtype=bool)
    logits, cache = decoder.start(prompt)
    while True:
        token = np.where(ended, rules.pad_id, rules.adjust_scores(logits, ids).argmax(1))
        ids = np.concatenate([ids, token[:, None]], 1)
        ended |= token == rules.end_id
        if ended.all() or ids.shape[1] >= rules.max_length:
            return ids
        logits, cache = decoder.step(token[:, None], cache)


def log_softmax(logits: Float[np.ndarray, "r v"]) -> Float[np.ndarray, "r v"]:
    """In float64 inside, float32 outside."""
    values = logits.astype(np.float64)
    values -= values.max(1, keepdims=True)
    return (values - np.log(np.exp(values).sum(1, keepdims=True))).astype(np.float32)


def best_of(values: Float[np.ndarray, "b n"], count: int) -> tuple[Float[np.ndarray, "b k"], Int[np.ndarray, "b k"]]:
    """The highest of each row, best first, and where they are; the first of equal ones."""
    count = min(count, values.shape[1])
    chosen = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(values, chosen, 1), axis=1, kind="stable")
    index = np.take_along_axis(chosen, order, 1)
    return np.take_along_axis(values, index, 1), index


@dataclass(frozen=True)
class _EndedTexts:
    """The best ended texts of each row, k at most; score -inf = none yet."""

    score: Float[np.ndarray, "b k"]
    ids: Int[np.ndarray, "b k t"]

    def add(self, score: Float[np.ndarray, "b n"], ids: Int[np.ndarray, "b n t"]) -> _EndedTexts:
        both, texts = np.concatenate([self.score, score], 1), np.concatenate([self.ids, ids], 1)
        best, position = best_of(both, self.score.shape[1])
        return _EndedTexts(best, np.take_along_axis(texts, position[..., None], 1))


def beam_search(
    decoder: Decoder, prompt: Int[np.ndarray, "b n"], rules: SearchRules, *, beams: int, length_penalty: float = 1.0
) -> Int[np.ndarray, "b t"]:
    """The best text of each row among those that `beams` unfinished ones lead to; it begins with the prompt."""
    rules.check_prompt(prompt)
    batch = len(prompt)
    first = np.repeat(np.arange(batch), beams)
    logits, cache = decoder.start(prompt)
    logits, cache, ids = logits[first], cache.select(first), prompt[first]
    total = np.full((batch, beams), -1e9, dtype=np.float32)
    total[:, 0] = 0.0  # all beams are still the same text: only one of them counts
    texts = np.full((batch, beams, rules.max_length), rules.pad_id, dtype=np.int64)
    ended = _EndedTexts(np.full_like(total, -np.inf), texts)
    done = np.zeros(batch, dtype=bool)
    while True:
        scores = rules.adjust_scores(log_softmax(logits), ids) + total.reshape(-1, 1)
        best, position = best_of(scores.reshape(batch, -1), 2 * beams)
        parent, token = position // scores.shape[1], position % scores.shape[1]
        length, ends = ids.shape[1], token == rules.end_id
        ended, done = _collect_finished(ended, done, best, ends, parent, ids, rules, length**length_penalty)
        unfinished = ends.argsort(axis=1, kind="stable")[:, :beams]  # the best that continue
        total, token, parent = (np.take_along_axis(each, unfinished, 1) for each in (best, token, parent))
        rows = (parent + beams * np.arange(batch)[:, None]).reshape(-1)
        ids = np.concatenate([ids[rows], token.reshape(-1, 1)], 1)
        if done.all() or length + 1 >= rules.max_length:
            break
        logits, cache = decoder.step(token.reshape(-1, 1), cache.select(rows))
    score = np.where(done[:, None], np.float32(-np.inf), total / np.float32(ids.shape[1] ** length_penalty))
    result = ended.add(score, _pad_beams(ids, beams, rules)).ids[:, 0]
    used = np.flatnonzero((result != rules.pad_id).any(0))
    return result[:, : used[-1] + 1]


def _collect_finished(
    ended: _EndedTexts,
    done: Bool[np.ndarray, " b"],
    best: Float[np.ndarray, "b two_k"],
    ends: Bool[np.ndarray, "b two_k"],
    parent: Int[np.ndarray, "b two_k"],
    ids: Int[np.ndarray, "r n"],
    rules: SearchRules,
    norm: float,
) -> tuple[_EndedTexts, Bool[np.ndarray, " b"]]:
    """Texts that end now, where they are among the first k; and rows in which no unfinished one can do better."""
    beams = ended.score.shape[1]
    normed = best / np.float32(norm)
    score = np.where(~ends[:, :beams] | done[:, None], np.float32(-np.inf), normed[:, :beams])
    texts = np.take_along_axis(_pad_beams(ids, beams, rules), parent[:, :beams, None], 1)
    texts[..., ids.shape[1]] = rules.end_id
    ended = ended.add(score, texts)
    return ended, done | (ended.score[:, -1] >= normed[:, 0])


def _pad_beams(ids: Int[np.ndarray, "r n"], beams: int, rules: SearchRules) -> Int[np.ndarray, "b k t"]:
    full = np.full((len(ids), rules.max_length), rules.pad_id, dtype=np.int64)
    full[:, : ids.shape[1]] = ids
    return full.reshape(-1, beams, rules.max_length)
