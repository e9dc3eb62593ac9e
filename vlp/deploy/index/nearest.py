"""The rows nearest to a query: exactly, or exactly among the candidates that signs propose.

Scores are sums over each row by itself, so a row's score does not depend on the others it is computed with, and equal scores are
ordered by row: the same query has the same answer, however many are asked for.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float16, Float32, Int

from vlp.deploy.index.signs import nearest_signs, pack_signs, without_mean
from vlp.deploy.index.store import Rows

EXACT_ROWS = 20_000  # up to here every row is compared exactly, in about a millisecond per 10,000
MIN_CANDIDATES, CANDIDATES_OF = 2_000, 125  # that signs of 512 dimensions propose: one row in 125, at least 2,000
CHUNK = 512  # rows that are made float32 at a time: they stay in the cache

Ranked = tuple[Int[np.ndarray, " m"], Float32[np.ndarray, " m"]]


def nearest_rows(
    rows: Rows,
    query: Float[np.ndarray, " e"],
    count: int,
    *,
    allowed: Int[np.ndarray, " a"] | None = None,
    exact: bool | None = None,
    faiss: bool | None = None,
) -> Ranked:
    """At most `count` rows by descending score, with their dot products.  allowed: only these rows, ascending.  exact: compare
    every row; None = if there are few.  faiss: as in `nearest_signs`."""
    considered = len(rows) if allowed is None else len(allowed)
    count = min(count, considered)
    if exact is None:
        exact = considered <= EXACT_ROWS
    if exact or count >= considered:
        candidates = np.arange(len(rows)) if allowed is None else allowed
    else:
        signs = rows.signs if allowed is None else rows.signs[allowed]
        bits = pack_signs(without_mean(query[None], rows.mean))[0]
        proposed = max(candidate_count(considered, width=len(query)), 10 * count)
        candidates = nearest_signs(bits, signs, proposed, faiss=faiss)
        candidates = candidates if allowed is None else allowed[candidates]
    scores = score_rows(rows, query, candidates)
    order = np.argsort(-scores, kind="stable")[:count]
    return candidates[order], scores[order]


def candidate_count(rows: int, *, width: int) -> int:
    """So many that 0.998 of the ten nearest rows are among them, also for queries that are distributed as texts are
    (experiments/benchmarks/photo_search.py). Signs of fewer dimensions say less, and need more."""
    return max(MIN_CANDIDATES, rows // CANDIDATES_OF) * max(1, 512 // width)


def score_rows(
    rows: Rows, query: Float[np.ndarray, " e"], candidates: Int[np.ndarray, " m"]
) -> Float32[np.ndarray, " m"]:
    """Dot products of the float16 rows with the query, in float32."""
    query = query.astype(np.float32)
    scores = np.empty(len(candidates), dtype=np.float32)
    for start in range(0, len(candidates), CHUNK):
        part = candidates[start : start + CHUNK]
        dense = len(part) and part[-1] - part[0] == len(part) - 1  # neighbours are read without being copied first
        vectors = rows.vectors[part[0] : part[-1] + 1] if dense else rows.vectors[part]
        scores[start : start + CHUNK] = np.einsum("ne,e->n", to_float32(vectors), query)
    return scores


def to_float32(vectors: Float16[np.ndarray, "n e"]) -> Float32[np.ndarray, "n e"]:
    """The same finite numbers, three times as fast as `astype`, which converts them one by one: the bits are moved to where float32
    has them, and 2¹¹² makes up for the difference of the exponents' origins, also of subnormal numbers."""
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: the sign, 5 bits of exponent, 10 of fraction
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values
