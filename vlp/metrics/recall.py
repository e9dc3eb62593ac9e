"""Recall@K of retrieval in both directions, with several captions for each image: exact, in chunks, sharded over ranks.

Tie rule: a query's credit is its expected hit if tied candidates came in random order. With G candidates above its
best correct one, T tied with that (itself included) and P correct ones among those, credit = 1 − C(T−P, m) / C(T, m),
m = clamp(K−G, 0, T). So constant embeddings have exactly the recall of chance.
Embeddings are rounded to multiples of 2⁻²⁶ (finer than the error of a float32 dot product), so that sums in float64
are exact integers: neither chunks, ranks, threads nor the device can change a comparison or break a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.structures import require_finite
from vlp.system.errors import UserError

KS = (1, 5, 10)


def count_ties(scores: Float[Tensor, "q c"], correct: Bool[Tensor, "q c"]) -> Int[Tensor, "q 3"]:
    """G, T, P of each query (see above).  scores: −∞ = not a candidate.  Raises UserError for NaN, +∞, and −∞ where correct."""
    require_finite(scores.masked_fill((scores == -math.inf) & ~correct, 0), "scores")
    if not bool(correct.any(1).all()):
        missing = int((~correct.any(1)).sum())
        raise UserError(
            f"{missing} queries have no correct candidate: give every image a text and every text its image"
        )
    best = scores.masked_fill(~correct, -math.inf).amax(1, keepdim=True)
    tied = scores == best
    return torch.stack([(scores > best).sum(1), tied.sum(1), (tied & correct).sum(1)], 1)


def update_ties(
    scores: Float[Tensor, "q k"], correct: Bool[Tensor, "q k"], before: Int[Tensor, "q 3"] | None
) -> Int[Tensor, "q 3"]:
    """G, T, P of each query by the second stage's scores; as `before` where no correct candidate was scored."""
    require_finite(scores, "the second stage's scores")
    if before is None:  # every candidate was scored
        return count_ties(scores, correct)
    hit = correct.any(1)
    ties = before.clone()
    ties[hit] = count_ties(scores[hit], correct[hit])
    return ties


def expected_hit(ties: Int[Tensor, "q 3"], k: int) -> Float[Tensor, " q"]:
    """In [0, 1]: the probability that a correct candidate is among the first k."""
    above, tied, correct = ties.double().unbind(1)
    drawn = (k - above).clamp(min=0).minimum(tied)
    miss = torch.ones_like(above)
    for step in range(k):
        wrong_share = (tied - correct - step).clamp(min=0) / (tied - step).clamp(min=1)
        miss = torch.where(step < drawn, miss * wrong_share, miss)
    return 1 - miss


def expected_rank(ties: Int[Tensor, "q 3"]) -> Float[Tensor, " q"]:
    """At least 1: the expected rank of the first correct candidate."""
    above, tied, correct = ties.double().unbind(1)
    return above + (tied + 1) / (correct + 1)


def rank_candidates(
    query: Float[Tensor, "q e"], candidate: Float[Tensor, "c e"],
    query_id: Int[Tensor, " q"], candidate_id: Int[Tensor, " c"], chunk: int | None = None,
) -> Int[Tensor, "q 3"]:  # fmt: skip
    """G, T, P of every query, where candidates with its id are correct; each rank scores its share of the queries.

    All ranks pass the same embeddings and get the same counts. chunk: queries scored at a time; None = about 8 million
    scores. Not on Apple's MPS device, which has no float64.
    """
    query, candidate = to_exact_integers(query, candidate)
    world, rank = distributed.world_size(), distributed.rank()
    share = slice(len(query) * rank // world, len(query) * (rank + 1) // world)
    rows = chunk or max(1, 2**23 // max(1, len(candidate)))
    parts = [
        count_ties(part @ candidate.T, ids[:, None] == candidate_id)
        for part, ids in zip(query[share].split(rows), query_id[share].split(rows), strict=True)
        if len(part)
    ]
    return distributed.gather(torch.cat(parts) if parts else query_id.new_zeros(0, 3))


def recall_from_scores(
    scores: Float[Tensor, "n m"], image_id: Int[Tensor, " n"], text_image_id: Int[Tensor, " m"],
    ks: Sequence[int] = KS, text_scores: Float[Tensor, "m n"] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Percent, and median ranks, from the scores of all pairs. Correct for a text is any image of its id, for an image any
    text of its id.  text_scores: of text queries, where a second stage made them differ."""
    correct = image_id[:, None] == text_image_id
    text_scores = scores.T if text_scores is None else text_scores
    return summarise_recall(count_ties(scores, correct), count_ties(text_scores, correct.T), ks)


def chance_recall(
    image_id: Int[Tensor, " n"], text_image_id: Int[Tensor, " m"], ks: Sequence[int] = KS
) -> dict[str, float]:
    """The expected recall of random scores: every candidate is tied."""

    def all_tied(query: Tensor, candidate: Tensor) -> Tensor:
        ids, count = candidate.unique(return_counts=True)
        index = torch.searchsorted(ids, query).clamp(max=len(ids) - 1)
        correct = torch.where(ids[index] == query, count[index], 0)
        return torch.stack([torch.zeros_like(correct), torch.full_like(correct, len(candidate)), correct], 1)

    return summarise_recall(all_tied(image_id, text_image_id), all_tied(text_image_id, image_id), ks)


def summarise_recall(
    to_text: Int[Tensor, "n 3"], to_image: Int[Tensor, "m 3"], ks: Sequence[int] = KS
) -> dict[str, float]:
    """Percent, median ranks and `rsum`, the sum of the recalls of both directions."""
    figures: dict[str, float] = {}
    for name, ties in (("image_to_text", to_text), ("text_to_image", to_image)):
        if not len(ties):
            raise UserError("retrieval: no image has a caption; leave the task out of task=[…]")
        ties = ties.cpu()
        figures |= {f"{name}_r{k}": 100 * float(expected_hit(ties, k).mean()) for k in ks}
        figures[f"{name}_median_rank"] = float(expected_rank(ties).quantile(0.5))
    figures["rsum"] = sum(figures[f"{name}_r{k}"] for name in ("image_to_text", "text_to_image") for k in ks)
    return figures


def exact_cosines(a: Float[Tensor, "q e"], b: Float[Tensor, "c e"]) -> Float[Tensor, "q c"]:
    """For rows of unit length, in float64: equal rows of `b` have equal cosines with each row of `a`."""
    a, b = to_exact_integers(a, b)
    return a @ b.T * 2.0**-52  # a power of two, which changes no comparison


def to_exact_integers(
    a: Float[Tensor, "q e"], b: Float[Tensor, "c e"]
) -> tuple[Float[Tensor, "q e"], Float[Tensor, "c e"]]:
    """As integers in float64 with norms up to 2²⁶: every partial sum of a dot product is below 2⁵³, so it is exact.  Raises
    UserError where an embedding is not finite."""
    a, b = (require_finite(x, "embeddings").double() for x in (a, b))

    def scaled(x: Tensor) -> Tensor:
        largest = float(x.norm(dim=1).max()) if x.numel() else 1.0
        exponent = math.ceil(math.log2(largest) - 0.01) if largest > 0 else 0  # unit length up to rounding gives 0
        return (x * 2.0 ** (26 - exponent)).round()

    return scaled(a), scaled(b)
