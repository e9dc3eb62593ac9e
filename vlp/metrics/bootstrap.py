"""Paired bootstrap: a confidence interval for the difference between two rankings of the same queries.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13: images are resampled with replacement, each
with all of its queries, since captions of one image are not independent; the interval is the 2.5th to 97.5th percentile.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import expected_hit
from vlp.structures import require_finite


def bootstrap_means(
    difference: Float[Tensor, " q"], group: Int[Tensor, " q"], *, draws: int = 10_000, seed: int = 0
) -> Float[Tensor, " draws"]:
    """The mean difference over queries in each of `draws` resamples.  difference: of each query, second minus first.
    group: the image of each query; its queries are resampled together. The same groups and seed give the same resamples,
    whatever the queries of a group are, so the means of both directions of retrieval can be added.  Raises UserError where a
    difference is not finite.
    """
    require_finite(difference, "differences of the queries")
    ids, inverse = group.unique(return_inverse=True)
    total = torch.zeros(len(ids), dtype=torch.float64).index_add(0, inverse, difference.double())
    count = inverse.bincount(minlength=len(ids)).double()
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(draws, dtype=torch.float64)
    for start in range(0, draws, 1000):
        resampled = torch.randint(len(ids), (min(1000, draws - start), len(ids)), generator=generator)
        means[start : start + len(resampled)] = total[resampled].sum(1) / count[resampled].sum(1)
    return means


def confidence_interval(means: Float[Tensor, " draws"]) -> tuple[float, float]:
    """The bounds of the 95 % interval.  Raises UserError where a mean is not finite."""
    require_finite(means, "means of the resamples")
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype, device=means.device)).tolist()
    return low, high


def recall_gains(
    before: Sequence[Int[Tensor, "_ 3"]], after: Sequence[Int[Tensor, "_ 3"]], image_ids: Sequence[Int[Tensor, " _"]]
) -> dict[str, float | None]:
    """Percent points of R@1 above the first stage, in each direction and summed, with paired bootstrap intervals over images,
    whose bounds are undefined (None) for one image: all its resamples are equal.
    image_ids: of each query; the two entries of each argument are the directions."""
    figures: dict[str, float | None] = {}
    gains: list[float] = []
    one_image = len(image_ids[0].unique()) < 2
    means: list[Tensor] = []
    for name, old, new, image_id in zip(("image_to_text", "text_to_image"), before, after, image_ids, strict=True):
        difference = 100 * (expected_hit(new, 1) - expected_hit(old, 1))
        means.append(bootstrap_means(difference, image_id))
        gains.append(float(difference.mean()))
        figures |= _gain_with_interval(f"{name}_r1_gain", gains[-1], None if one_image else means[-1])
    return figures | _gain_with_interval("r1_gain", sum(gains), None if one_image else means[0] + means[1])


def _gain_with_interval(name: str, value: float, means: Float[Tensor, " draws"] | None) -> dict[str, float | None]:
    """means: None = the interval is undefined."""
    low, high = (None, None) if means is None else confidence_interval(means)
    interval = "undefined for one image" if low is None else f"{low:+.2f} to {high:+.2f}"
    if distributed.rank() == 0:
        print(f"{name} over the first stage: {value:+.2f} points, 95 % interval {interval}", file=sys.stderr)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
