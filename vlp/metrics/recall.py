"""Recall@K of retrieval in both directions: many captions an image, exact, in chunks, sharded over ranks.

Tie rule: a query's credit is its expected hit if tied candidates came in random order. With G candidates above its
best right one, T tied with that (itself included) and P right ones among those, credit = 1 − C(T−P, m) / C(T, m),
m = clamp(K−G, 0, T). So constant embeddings score exactly chance.
Embeddings are rounded to multiples of 2⁻²⁶ (finer than float32's own error in a dot product), so that sums in
float64 are exact integers: neither chunks, ranks, threads nor the device can change a comparison or break a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.system.errors import UserError

KS = (1, 5, 10)


def count_ties(scores: Float[Tensor, "q c"], right: Bool[Tensor, "q c"]) -> Int[Tensor, "q 3"]:
    """G, T, P of each query (see above)."""
    if not bool(right.any(1).all()):
        lost = int((~right.any(1)).sum())
        raise UserError(f"{lost} queries have no right candidate: every image needs a text, and every text its image")
    best = scores.masked_fill(~right, -math.inf).amax(1, keepdim=True)
    tied = scores == best
    return torch.stack([(scores > best).sum(1), tied.sum(1), (tied & right).sum(1)], 1)


def expected_hit(ties: Int[Tensor, "q 3"], k: int) -> Float[Tensor, " q"]:
    """In [0, 1]: the probability that a right candidate is among the first k."""
    above, tied, right = ties.double().unbind(1)
    drawn = (k - above).clamp(min=0).minimum(tied)
    miss = torch.ones_like(above)
    for step in range(k):
        wrong_left = (tied - right - step).clamp(min=0) / (tied - step).clamp(min=1)
        miss = torch.where(step < drawn, miss * wrong_left, miss)
    return 1 - miss


def expected_rank(ties: Int[Tensor, "q 3"]) -> Float[Tensor, " q"]:
    """From 1: where the first right candidate is expected."""
    above, tied, right = ties.double().unbind(1)
    return above + (tied + 1) / (right + 1)


def rank_candidates(
    query: Float[Tensor, "q e"], candidate: Float[Tensor, "c e"],
    query_id: Int[Tensor, " q"], candidate_id: Int[Tensor, " c"], chunk: int | None = None,
) -> Int[Tensor, "q 3"]:  # fmt: skip
    """G, T, P of every query, where candidates with its id are right; each rank scores its share of the queries.

    All ranks pass the same embeddings and get the same counts. chunk: queries scored at a time; None = about 8 million
    scores. float64 is needed, so Apple's MPS device will not do.
    """
    if query.numel() and candidate.numel() and not (query.isfinite().all() and candidate.isfinite().all()):
        raise UserError("embeddings hold NaN or infinity: the model has diverged")
    query, candidate = exact(query, candidate)
    world, rank = distributed.world_size(), distributed.rank()
    share = slice(len(query) * rank // world, len(query) * (rank + 1) // world)
    rows = chunk or max(1, 2**23 // max(1, len(candidate)))
    parts = [
        count_ties(part @ candidate.T, ids[:, None] == candidate_id)
        for part, ids in zip(query[share].split(rows), query_id[share].split(rows), strict=True)
        if len(part)
    ]
    return distributed.gather(torch.cat(parts) if parts else query_id.new_zeros(0, 3))


def recall_at_k(
    image_embed: Float[Tensor, "n e"], text_embed: Float[Tensor, "m e"],
    image_id: Int[Tensor, " n"], text_image_id: Int[Tensor, " m"],
    ks: Sequence[int] = KS, chunk: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Percent, and median ranks. A text's right answer is any image of its id, an image's any text with its id."""
    to_text = rank_candidates(image_embed, text_embed, image_id, text_image_id, chunk)
    to_image = rank_candidates(text_embed, image_embed, text_image_id, image_id, chunk)
    return summarise(to_text, to_image, ks)


def recall_from_scores(
    scores: Float[Tensor, "n m"], image_id: Int[Tensor, " n"], text_image_id: Int[Tensor, " m"],
    ks: Sequence[int] = KS, text_scores: Float[Tensor, "m n"] | None = None,
) -> dict[str, float]:  # fmt: skip
    """As `recall_at_k`, from scores; text_scores: the other direction's own, where a second stage made them differ."""
    right = image_id[:, None] == text_image_id
    text_scores = scores.T if text_scores is None else text_scores
    return summarise(count_ties(scores, right), count_ties(text_scores, right.T), ks)


def chance_recall(
    image_id: Int[Tensor, " n"], text_image_id: Int[Tensor, " m"], ks: Sequence[int] = KS
) -> dict[str, float]:
    """What random scores reach on average: every candidate tied."""

    def all_tied(query: Tensor, candidate: Tensor) -> Tensor:
        ids, count = candidate.unique(return_counts=True)
        place = torch.searchsorted(ids, query).clamp(max=len(ids) - 1)
        right = torch.where(ids[place] == query, count[place], 0)
        return torch.stack([torch.zeros_like(right), torch.full_like(right, len(candidate)), right], 1)

    return summarise(all_tied(image_id, text_image_id), all_tied(text_image_id, image_id), ks)


def summarise(to_text: Int[Tensor, "n 3"], to_image: Int[Tensor, "m 3"], ks: Sequence[int] = KS) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, ties in (("image_to_text", to_text), ("text_to_image", to_image)):
        if not len(ties):
            raise UserError("nothing to rank: no image with a caption was seen")
        ties = ties.cpu()
        figures |= {f"{name}_r{k}": 100 * float(expected_hit(ties, k).mean()) for k in ks}
        figures[f"{name}_median_rank"] = float(expected_rank(ties).quantile(0.5))
    figures["rsum"] = sum(figures[f"{name}_r{k}"] for name in ("image_to_text", "text_to_image") for k in ks)
    return figures


def exact_cosines(a: Float[Tensor, "q e"], b: Float[Tensor, "c e"]) -> Float[Tensor, "q c"]:
    """Of rows of unit length, in float64: equal rows of `b` have equal cosines with each row of `a`."""
    a, b = exact(a, b)
    return a @ b.T * 2.0**-52  # a power of two, which changes no comparison


def exact(a: Float[Tensor, "q e"], b: Float[Tensor, "c e"]) -> tuple[Float[Tensor, "q e"], Float[Tensor, "c e"]]:
    """Integers in float64 with norms up to 2²⁶: every partial sum of a product stays below 2⁵³, so it is exact."""
    a, b = a.double(), b.double()

    def scaled(x: Tensor) -> Tensor:
        largest = float(x.norm(dim=1).max()) if x.numel() else 1.0
        exponent = math.ceil(math.log2(largest) - 0.01) if largest > 0 else 0  # unit length up to rounding gives 0
        return (x * 2.0 ** (26 - exponent)).round()

    return scaled(a), scaled(b)
