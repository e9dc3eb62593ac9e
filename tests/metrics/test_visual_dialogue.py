"""VisDial's figures: the numbers of the challenge's own code, and what ties and rounds without relevance give."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vlp.metrics.visual_dialogue import ndcg, rank_figures, strict_ranks, tied_ranks
from vlp.system.errors import UserError


def test_the_challenges_own_numbers(shared: Path) -> None:
    folder = shared / "reference" / "visdial_metrics"
    stored = np.load(folder / "visdial_metrics.npz")
    expected = json.loads((folder / "visdial_metrics.json").read_text())
    scores, answers = torch.tensor(stored["scores"]), torch.tensor(stored["gt_index"])
    ranks = tied_ranks(scores.flatten(0, 1)).gather(1, answers.flatten()[:, None])[:, 0]
    figures = rank_figures(ranks)
    names = {"r1": "r@1", "r5": "r@5", "r10": "r@10", "mean_rank": "mean", "mrr": "mrr"}
    assert figures == pytest.approx({ours: expected[theirs] for ours, theirs in names.items()}, abs=2e-6)
    dense = scores[torch.arange(len(scores)), torch.tensor(stored["round_id"]) - 1]
    assert float(ndcg(dense, torch.tensor(stored["relevance"])).mean()) == pytest.approx(expected["ndcg"], abs=1e-7)


def test_a_tie_has_the_mean_of_its_ranks() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert tied_ranks(scores).tolist() == [[3.0, 1.0, 3.0, 3.0, 5.0], [3.0] * 5]
    assert strict_ranks(scores).tolist() == [[2, 1, 3, 4, 5], [1, 2, 3, 4, 5]]


def test_rows_of_fewer_options_are_ranked_among_these() -> None:
    scores, real = torch.tensor([[0.1, 0.2, 0.0]]), torch.tensor([[True, True, False]])
    assert tied_ranks(scores - 1, real)[0, :2].tolist() == [2.0, 1.0]
    full = ndcg(torch.tensor([[0.1, 0.2]]), torch.tensor([[1.0, 0.5]]))
    padded = ndcg(torch.tensor([[0.1, 0.2, 9.0]]), torch.tensor([[1.0, 0.5, -1.0]]))
    torch.testing.assert_close(padded, full)


def test_rank_figures_by_hand() -> None:
    figures = rank_figures(torch.tensor([1.0, 1.5, 6.0, 20.0]))
    reciprocal = (1 + 1 / 1.5 + 1 / 6 + 1 / 20) / 4
    assert figures == pytest.approx({"r1": 0.25, "r5": 0.5, "r10": 0.75, "mean_rank": 7.125, "mrr": reciprocal})


def test_ndcg_by_hand_is_cut_at_the_number_of_relevant_options() -> None:
    relevance = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    ideal = 1.0 + 0.5 / math.log2(3)
    first_is_wrong = ndcg(torch.tensor([[3.0, 1.0, 4.0, 0.0]]), relevance)  # the second relevant one is beyond the cut
    assert float(first_is_wrong) == pytest.approx((1 / math.log2(3)) / ideal)
    assert float(ndcg(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), relevance)) == pytest.approx(1.0)


def test_ndcg_of_a_tie_is_the_mean_over_its_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    relevance = torch.rand(1, 6, generator=generator).round(decimals=1) * torch.tensor([[1, 0, 1, 1, 0, 0]])
    tied = ndcg(torch.tensor([[1.0, 1.0, 2.0, 1.0, 1.0, 0.0]]), relevance)
    noise = torch.rand(40_000, 6, generator=generator) / 10
    drawn = ndcg(torch.tensor([[1.0, 1.0, 2.0, 1.0, 1.0, 0.0]]) + noise, relevance.expand(40_000, 6))
    assert float(tied) == pytest.approx(float(drawn.mean()), abs=3e-3)


def test_a_round_without_a_relevant_option_has_no_ndcg_and_a_batch_of_one_has_one() -> None:
    found = ndcg(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert found.isnan().tolist() == [True, False]
    assert float(ndcg(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]]))[0]) == 1.0


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(UserError, match="scores of the options contain NaN"):
        tied_ranks(torch.tensor([[1.0, float("nan")]]))
