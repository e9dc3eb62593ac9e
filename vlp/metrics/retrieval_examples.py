"""The queries, results and similarities of a retrieval that its pictures show."""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES = 4  # correct ones and wrong ones, in each direction
MATRIX_SIZE = 12  # rows and columns of the similarity matrix


def select_examples(
    ties: Tensor, query: Tensor, candidate: Tensor, query_id: Tensor, candidate_id: Tensor,
    query_names: list[str], candidate_names: list[str],
) -> list[dict[str, object]]:  # fmt: skip
    """The first few queries with a correct candidate at rank 1 and the first few without, with their five best candidates.
    ties: of `vlp.metrics.recall.rank_candidates`."""
    above = ties[:, 0]
    chosen = torch.cat([(above == 0).nonzero()[:QUERIES, 0], (above > 0).nonzero()[:QUERIES, 0]])
    scores, best = (query[chosen] @ candidate.T).topk(min(5, len(candidate)))
    correct = candidate_id[best] == query_id[chosen][:, None]
    return [
        {
            "query": query_names[row],
            "rank": rank + 1,
            "results": [(candidate_names[index], *result) for index, *result in zip(*results, strict=True)],
        }
        for row, rank, *results in zip(
            chosen.tolist(), above[chosen].tolist(), best.tolist(), scores.tolist(), correct.tolist(), strict=True
        )
    ]


def first_image_caption_pairs(image_id: Tensor, text_id: Tensor) -> list[tuple[int, int]]:
    """Rows of the first images of different ids, each with the row of its first caption."""
    pairs: dict[int, tuple[int, int]] = {}
    for row, image in enumerate(image_id.tolist()):
        if image not in pairs:
            pairs[image] = (row, int((text_id == image).nonzero()[0]))
        if len(pairs) == MATRIX_SIZE:
            break
    return list(pairs.values())
