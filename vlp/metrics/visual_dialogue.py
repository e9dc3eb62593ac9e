"""VisDial's figures: recall@k, mean rank and mean reciprocal rank of the answer among its options, and NDCG by relevance.

Das et al., arXiv:1611.08669, §5; batra-mlp-lab/visdial-challenge-starter visdialch/metrics.py. Ties, which that code breaks by
an unstable sort: every option of a tie has the mean of the ranks that the tie occupies, in recall, mean rank and reciprocal
rank; in NDCG, each has the mean of the discounts there, which is the expectation over random orders (McSherry and Najork, ECIR
2008). A round in which no option is relevant has no NDCG, where that code makes the mean of all NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.structures import require_finite

KS = (1, 5, 10)


def tied_ranks(scores: Float[Tensor, "n k"], real: Bool[Tensor, "n k"] | None = None) -> Float[Tensor, "n k"]:
    """The rank of each option from 1, the highest score first; of a tie, the mean of its ranks.  real: False where a row has
    fewer options than k; their ranks mean nothing.  Raises UserError for scores that are not finite."""
    real = torch.ones_like(scores, dtype=torch.bool) if real is None else real
    require_finite(scores.masked_fill(~real, 0), "scores of the options")
    scores = scores.masked_fill(~real, -torch.inf)
    above = (scores[:, None, :] > scores[:, :, None]).sum(2)
    tied = (scores[:, None, :] == scores[:, :, None]).sum(2)
    return above + (tied + 1).double() / 2


def strict_ranks(scores: Float[Tensor, "n k"]) -> Int[Tensor, "n k"]:
    """Each of 1 … k once, as a leaderboard takes them: of a tie, the first option first.  Scores of -∞ come last."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1


def rank_figures(ranks: Float[Tensor, " n"]) -> dict[str, float]:
    """Of the ranks of the right answers: r1, r5, r10 and mrr from 0 to 1, and mean_rank."""
    figures = {f"r{k}": float((ranks <= k).double().mean()) for k in KS}
    return figures | {"mean_rank": float(ranks.double().mean()), "mrr": float((1 / ranks.double()).mean())}


def ndcg(scores: Float[Tensor, "n k"], relevance: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Of each round, from 0 to 1; NaN where no option is relevant. Both gains are cut at the number of options of relevance
    above 0.  relevance: from 0 to 1; -1 where a row has no option."""
    real = relevance >= 0
    gains, ranks = relevance.clamp(min=0).double(), tied_ranks(scores, real)
    cut = (relevance > 0).sum(1, keepdim=True)
    position = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    discounts = (1 / (position + 1).double().log2()) * (position <= cut)
    summed = torch.cat([torch.zeros_like(discounts[:, :1]), discounts.cumsum(1)], 1)
    scores = scores.masked_fill(~real, -torch.inf)
    tied = (scores[:, None, :] == scores[:, :, None]).sum(2)
    last = (ranks + (tied - 1) / 2).long()  # of the ranks that the option's tie occupies
    mean_discount = (summed.gather(1, last) - summed.gather(1, last - tied)) / tied
    ideal = gains.sort(dim=1, descending=True).values
    return (gains * mean_discount).sum(1) / (ideal * discounts).sum(1)
