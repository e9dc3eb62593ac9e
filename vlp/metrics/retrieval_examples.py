"""Which queries, results and similarities of a retrieval are shown in pictures."""

from __future__ import annotations

import torch
from torch import Tensor

SHOWN = 4  # queries of each kind (right, wrong) and direction
MATRIX = 12  # rows and columns of the similarity matrix


def examples(
    ties: Tensor, query: Tensor, candidate: Tensor, query_id: Tensor, candidate_id: Tensor,
    query_names: list[str], candidate_names: list[str],
) -> list[dict[str, object]]:  # fmt: skip
    """The first few queries that hit at rank 1 and the first few that miss, with their five best candidates."""
    above = ties[:, 0]
    chosen = torch.cat([(above == 0).nonzero()[:SHOWN, 0], (above > 0).nonzero()[:SHOWN, 0]])
    scores, best = (query[chosen] @ candidate.T).topk(min(5, len(candidate)))
    right = candidate_id[best] == query_id[chosen][:, None]
    return [
        {
            "query": query_names[row],
            "rank": rank + 1,
            "results": [(candidate_names[j], s, r) for j, s, r in zip(*found, strict=True)],
        }
        for row, rank, *found in zip(
            chosen.tolist(), above[chosen].tolist(), best.tolist(), scores.tolist(), right.tolist(), strict=True
        )
    ]


def first_pairs(image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor) -> list[tuple[int, int]]:
    """The first images of different ids, each with its first caption."""
    pairs: dict[int, tuple[int, int]] = {}
    for row, key in enumerate(image_id.tolist()):
        if key not in pairs:
            pairs[key] = (row, int((text_id == key).nonzero()[0]))
        if len(pairs) == MATRIX:
            break
    return list(pairs.values())
