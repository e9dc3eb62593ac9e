"""Scores of image-text pairs by a fusion: the second stage of retrieval, exact and without repeated work.

ALBEF (salesforce/ALBEF Retrieval.py) fuses one image with its k texts, or one text with its k images, at a time and projects
the image's keys and values again for every pair. Here pairs are grouped by image: its keys and values are computed once and
not copied, as the tokens of all its texts are one long query; texts of similar length are scored together, and a pair that
both directions need is scored once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.models.tokens import real_mask
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import CrossAttentionCache, Tokens, require_finite

Score = Callable[[VisionLanguageModel, Tokens, "CrossAttentionCache | Tokens"], Tensor]
MAX_FUSED_TOKENS = 4096  # of texts that are fused with one image at a time


@dataclass(frozen=True)
class PackedTokens:
    """Token states of many rows without their padding, on the CPU: row i is states[ends[i - 1] : ends[i]]."""

    states: Float[Tensor, "r d"]
    ends: Int[Tensor, " n"]
    ids: Int[Tensor, " r"] | None = None

    @classmethod
    def from_batches(cls, parts: list[Tokens]) -> PackedTokens:
        if not parts:  # a rank without samples
            return cls(states=torch.zeros(0, 0), ends=torch.zeros(0, dtype=torch.int64))
        lengths, states, ids = [], [], []
        for tokens in parts:
            mask = real_mask(tokens)
            lengths.append(mask.sum(1).cpu())
            states.append(tokens.states[mask].detach().cpu())
            if tokens.ids is not None and tokens.ids.shape == mask.shape:
                ids.append(tokens.ids[mask].cpu())
        known = torch.cat(ids) if len(ids) == len(parts) else None
        return cls(states=torch.cat(states), ends=torch.cat(lengths).cumsum(0), ids=known)

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self) -> Int[Tensor, " n"]:
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    def padded_rows(self, index: Int[Tensor, " k"], device: torch.device) -> Tokens:
        """These rows, padded to the longest of them."""
        lengths = self.lengths()[index]
        mask: Bool[Tensor, "k t"] = torch.arange(int(lengths.max())) < lengths[:, None]
        position = (self.ends[index] - lengths)[:, None] + torch.arange(mask.shape[1])
        states = self.states.new_zeros(*mask.shape, self.states.shape[1])
        states[mask] = self.states[position[mask]]
        ids = None
        if self.ids is not None:
            ids = torch.zeros(mask.shape, dtype=torch.int64)
            ids[mask] = self.ids[position[mask]]
            ids = ids.to(device)
        states = states.to(device)
        return Tokens(states=states, pooled=states[:, 0], mask=None if bool(mask.all()) else mask.to(device), ids=ids)


@torch.no_grad()
def score_pairs(
    model: VisionLanguageModel,
    score: Score,
    image: PackedTokens,
    text: PackedTokens,
    pairs: Int[Tensor, "p 2"],
    *,
    device: torch.device,
    report: Callable[[int, int, float], None] | None = None,
) -> Float[Tensor, " p"]:
    """score: an objective's, of texts with one image.  pairs: (image, text), in any order, each once.
    report: called after each image with the pairs done, all pairs and seconds.  Raises UserError where a score is not finite.
    """
    result = torch.empty(len(pairs), dtype=torch.float32)
    lengths = text.lengths()
    start, done = time.perf_counter(), 0
    for image_index, positions in _pairs_by_image(pairs, lengths):
        memory = model.project_memory(image.padded_rows(torch.tensor([image_index]), device))
        for chunk in _length_slices(lengths[pairs[positions, 1]], MAX_FUSED_TOKENS):
            words = text.padded_rows(pairs[positions[chunk], 1], device)
            repeat = torch.zeros(len(words.states), dtype=torch.int64)
            rows = memory if isinstance(memory, CrossAttentionCache) else memory.select(repeat)
            result[positions[chunk]] = score(model, words, rows).float().cpu()
        done += len(positions)
        if report is not None:
            report(done, len(pairs), time.perf_counter() - start)
    return require_finite(result, "scores of image-text pairs")


def _pairs_by_image(pairs: Int[Tensor, "p 2"], lengths: Int[Tensor, " n"]) -> Iterator[tuple[int, Int[Tensor, " k"]]]:
    """Each image with the positions of its pairs, those of short texts first."""
    by_length = lengths[pairs[:, 1]].argsort(stable=True)
    order = by_length[pairs[by_length, 0].argsort(stable=True)]
    image_indices, counts = torch.unique_consecutive(pairs[order, 0], return_counts=True)
    yield from zip(image_indices.tolist(), order.split(counts.tolist()), strict=True)


def _length_slices(lengths: Int[Tensor, " k"], most: int) -> Iterator[slice]:
    """Consecutive texts whose padded tokens are at most `most`; lengths never fall."""
    first = 0
    for position, length in enumerate(lengths.tolist()):
        if position > first and (position + 1 - first) * length > most:
            yield slice(first, position)
            first = position
    if len(lengths):
        yield slice(first, len(lengths))


def _top_candidates(
    similarity: Float[Tensor, "b m"], count: int, order: Int[Tensor, " m"] | None
) -> Int[Tensor, "b _"]:
    """The `count` most similar columns of each row. All are sorted only in rows with ties at rank `count`."""
    order = torch.arange(similarity.shape[1]) if order is None else order
    order = order.to(similarity.device)
    value, best = similarity.topk(count, dim=1)
    tied = ((similarity >= value[:, -1:]).sum(1) > count).nonzero()[:, 0]
    best[tied] = order[similarity[tied][:, order].sort(dim=1, descending=True, stable=True).indices[:, :count]]
    return best


def pair_positions(pairs: Int[Tensor, "p 2"], selected: Int[Tensor, "w 2"], columns: int) -> Int[Tensor, " w"]:
    """Positions of the selected (image, text) pairs among sorted ones; columns: how many texts there are."""
    keys = pairs[:, 0] * columns + pairs[:, 1]
    return torch.searchsorted(keys, selected[:, 0] * columns + selected[:, 1])


def candidate_pairs(
    similarity: Callable[[int, int], Float[Tensor, "_ m"]],
    queries: int,
    count: int,
    rows: int = 1024,
    order: Int[Tensor, " m"] | None = None,
) -> Int[Tensor, "p 2"]:
    """(query, candidate) for the `count` most similar candidates of each query.  similarity: of the queries from … to …
    order: the candidates in the order in which equal ones are taken; None = by index.
    """
    parts = []
    for start in range(0, queries, rows):
        best = _top_candidates(similarity(start, min(start + rows, queries)), count, order)
        owner = torch.arange(start, start + len(best), device=best.device)
        parts.append(torch.stack([owner.repeat_interleave(count), best.flatten()], 1).cpu())
    return torch.cat(parts)
