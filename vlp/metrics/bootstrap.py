"""Paired bootstrap: how sure is the difference between two rankings of the same queries?

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13: images are drawn with replacement, each with
all of its queries, since captions of one image are not independent; the interval is the 2.5th to 97.5th percentile.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def resampled_means(
    difference: Float[Tensor, " q"], group: Int[Tensor, " q"], *, draws: int = 10_000, seed: int = 0
) -> Float[Tensor, " draws"]:
    """The mean difference over queries in each draw.  difference: of each query, second less first.
    group: what is drawn as one (the image of the query). The same groups and seed give the same draws, whatever the queries
    of a group are, so means of both directions of retrieval can be added.
    """
    ids, place = group.unique(return_inverse=True)
    total = torch.zeros(len(ids), dtype=torch.float64).index_add(0, place, difference.double())
    count = place.bincount(minlength=len(ids)).double()
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(draws, dtype=torch.float64)
    for start in range(0, draws, 1000):
        drawn = torch.randint(len(ids), (min(1000, draws - start), len(ids)), generator=generator)
        means[start : start + len(drawn)] = total[drawn].sum(1) / count[drawn].sum(1)
    return means


def interval(means: Float[Tensor, " draws"]) -> tuple[float, float]:
    """95 %."""
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype, device=means.device)).tolist()
    return low, high
