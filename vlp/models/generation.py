"""Texts from a decoder, token by token: greedy_search, beam search, nucleus sampling.

Beam search is that of transformers 4.15, with which BLIP's captions were made: 2k continuations are compared in each
step, ended texts compete by the sum of their log-probabilities / length^penalty, where the length counts the prompt but
not the end token. (Later versions of transformers leave the prompt out.) Nucleus: Holtzman et al., arXiv:1904.09751.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.random import mix_rows, uniform
from vlp.structures import require_finite
from vlp.system.errors import UserError

Step = Callable[[Any, Any], tuple[Any, Any]]  # (ids [r n], cache) → (logits of the next token [r v], cache)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRules:
    """max_length, min_length: of a text in tokens, prompt included; it ends at end_id and is filled up with pad_id.

    repetition_penalty: the scores of tokens that the text already has are divided by it, negative ones multiplied (Keskar et
    al., arXiv:1909.05858); 1 = unchanged.
    """

    end_id: int
    pad_id: int
    max_length: int = 30
    min_length: int = 0
    repetition_penalty: float = 1.0

    def adjust_scores(self, scores: Float[Tensor, "r v"], ids: Int[Tensor, "r n"]) -> Float[Tensor, "r v"]:
        """In float32.  scores: logits or log-probabilities of the token after `ids`; −∞ = impossible.  Raises UserError where the
        highest of a row is not finite, which NaN is."""
        require_finite(scores.amax(1), "scores of the next token")
        scores = scores.float()
        if self.repetition_penalty != 1.0:
            repeated = scores.gather(1, ids)
            penalty = self.repetition_penalty
            penalised = torch.where(repeated < 0, repeated * penalty, repeated / penalty)
            scores = scores.scatter(1, ids, penalised)
        if ids.shape[1] < self.min_length:
            scores = scores.index_fill(1, torch.tensor([self.end_id], device=ids.device), -torch.inf)
        return scores

    def check_prompt(self, prompt: Int[Tensor, "b n"]) -> None:
        if prompt.shape[1] >= self.max_length:
            raise UserError(
                f"a prompt of {prompt.shape[1]} tokens is not shorter than max_length={self.max_length}: set a greater max_length"
            )


def greedy_search(step: Step, cache: Any, prompt: Int[Tensor, "b n"], rules: GenerationRules) -> Int[Tensor, "b t"]:
    """The most probable token each time; the result begins with the prompt."""
    return _generate_tokens(step, cache, prompt, rules, lambda scores, _: scores.argmax(1))


def sample_nucleus(
    step: Step,
    cache: Any,
    prompt: Int[Tensor, "b n"],
    rules: GenerationRules,
    *,
    top_p: float,
    seeds: Int[Tensor, " b"],
) -> Int[Tensor, "b t"]:
    """Each token drawn from the most probable ones that together have probability `top_p`: a function of the row's seed
    and the position in the text alone.
    """

    def sample_token(scores: Float[Tensor, "b v"], position: int) -> Int[Tensor, " b"]:
        probability, order = scores.softmax(1).sort(dim=1, descending=True, stable=True)
        before = probability.cumsum(1) - probability
        cumulative = probability.masked_fill(before >= top_p, 0).cumsum(1)  # the first one always stays
        threshold = uniform(mix_rows(seeds, position), 1).to(cumulative) * cumulative[:, -1:]
        rank = torch.searchsorted(cumulative, threshold, right=True).clamp(max=cumulative.shape[1] - 1)
        return order.gather(1, rank)[:, 0]

    return _generate_tokens(step, cache, prompt, rules, sample_token)


def _generate_tokens(
    step: Step,
    cache: Any,
    prompt: Int[Tensor, "b n"],
    rules: GenerationRules,
    choose_token: Callable[[Float[Tensor, "b v"], int], Int[Tensor, " b"]],
) -> Int[Tensor, "b t"]:
    rules.check_prompt(prompt)
    ids, ended = prompt, torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    logits, cache = step(prompt, cache)
    while True:
        token = choose_token(rules.adjust_scores(logits, ids), ids.shape[1]).masked_fill(ended, rules.pad_id)
        ids = torch.cat([ids, token[:, None]], dim=1)
        ended = ended | (token == rules.end_id)
        if bool(ended.all()) or ids.shape[1] >= rules.max_length:
            return ids
        logits, cache = step(token[:, None], cache)


@dataclasses.dataclass(frozen=True)
class _FinishedTexts:
    """The best ended texts of each row, k at most; score -inf = none yet."""

    score: Float[Tensor, "b k"]
    ids: Int[Tensor, "b k t"]

    def add(self, score: Float[Tensor, "b n"], ids: Int[Tensor, "b n t"]) -> _FinishedTexts:
        both, texts = torch.cat([self.score, score], dim=1), torch.cat([self.ids, ids], dim=1)
        best, position = both.topk(self.score.shape[1])
        return _FinishedTexts(best, _take_beams(texts, position))


def beam_search(
    step: Step,
    cache: Any,
    prompt: Int[Tensor, "b n"],
    rules: GenerationRules,
    *,
    beams: int,
    length_penalty: float = 1.0,
) -> Int[Tensor, "b t"]:
    """The best text of each row among those that `beams` unfinished ones lead to; it begins with the prompt.

    cache: of as many rows as the prompt, with `select(index)`.
    """
    rules.check_prompt(prompt)
    batch, device = len(prompt), prompt.device
    first = torch.arange(batch, device=device).repeat_interleave(beams)
    logits, cache = step(prompt, cache)
    logits, cache, ids = logits[first], cache.select(first), prompt[first]
    total = torch.full((batch, beams), -1e9, device=device, dtype=torch.float32)  # whatever the model's precision is
    total[:, 0] = 0.0  # all beams are still the same text: only one of them counts
    texts = prompt.new_full((batch, beams, rules.max_length), rules.pad_id)
    ended = _FinishedTexts(torch.full_like(total, -torch.inf), texts)
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    while True:
        scores = rules.adjust_scores(logits.float().log_softmax(1), ids) + total.view(-1, 1)
        best, position = scores.view(batch, -1).topk(2 * beams)
        parent, token = position // scores.shape[1], position % scores.shape[1]
        length = ids.shape[1]
        ends = token == rules.end_id
        ended, done = _collect_finished(ended, done, best, ends, parent, ids, rules, length**length_penalty)
        unfinished_beams = ends.to(torch.int8).argsort(dim=1, stable=True)[:, :beams]  # the best that continue
        total, token = best.gather(1, unfinished_beams), token.gather(1, unfinished_beams)
        rows = (parent.gather(1, unfinished_beams) + beams * torch.arange(batch, device=device)[:, None]).flatten()
        ids = torch.cat([ids[rows], token.view(-1, 1)], dim=1)
        if bool(done.all()) or length + 1 >= rules.max_length:
            break
        logits, cache = step(token.view(-1, 1), cache.select(rows))
    unfinished = (total / ids.shape[1] ** length_penalty).masked_fill(done[:, None], -torch.inf)
    result = ended.add(unfinished, _pad_beams(ids, beams, rules)).ids[:, 0]
    used = (result != rules.pad_id).any(0).nonzero()
    return result[:, : int(used[-1]) + 1]


def _collect_finished(
    ended: _FinishedTexts,
    done: Bool[Tensor, " b"],
    best: Float[Tensor, "b two_k"],
    ends: Bool[Tensor, "b two_k"],
    parent: Int[Tensor, "b two_k"],
    ids: Int[Tensor, "r n"],
    rules: GenerationRules,
    norm: float,
) -> tuple[_FinishedTexts, Bool[Tensor, " b"]]:
    """Texts that end now, where they are among the first k; and rows in which no unfinished one can do better."""
    beams = ended.score.shape[1]
    score = (best[:, :beams] / norm).masked_fill(~ends[:, :beams] | done[:, None], -torch.inf)
    texts = _take_beams(_pad_beams(ids, beams, rules), parent[:, :beams])
    texts[..., ids.shape[1]] = rules.end_id
    ended = ended.add(score, texts)
    return ended, done | (ended.score[:, -1] >= best[:, 0] / norm)


def _pad_beams(ids: Int[Tensor, "r n"], beams: int, rules: GenerationRules) -> Int[Tensor, "b k t"]:
    full = ids.new_full((len(ids), rules.max_length), rules.pad_id)
    full[:, : ids.shape[1]] = ids
    return full.view(-1, beams, rules.max_length)


def _take_beams(texts: Int[Tensor, "b n t"], position: Int[Tensor, "b k"]) -> Int[Tensor, "b k t"]:
    return texts.gather(1, position[..., None].expand(-1, -1, texts.shape[2]))
