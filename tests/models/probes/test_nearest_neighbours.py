from __future__ import annotations

import math

import torch

from vlp.models.probes import nearest_neighbours
from vlp.models.probes.labelled import Labelled

TRAIN = Labelled(
    features=torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]),
    targets=torch.tensor([[True, False], [False, True], [False, True]]),
    exclusive=True,
)


def test_votes_are_weighted_by_the_cosine() -> None:
    query = torch.tensor([[3.0, 3.0 * math.tan(0.4)]])  # at an angle of 0.4 from the first sample
    (classifier,) = nearest_neighbours.fit_path(TRAIN, [2])
    first, second = math.exp(math.cos(0.4) / 0.07), math.exp(math.sin(0.4) / 0.07)
    expected = torch.tensor([[first, second]], dtype=torch.float64) / (first + second)
    torch.testing.assert_close(classifier.scores(query), expected, atol=1e-6, rtol=0)
    assert nearest_neighbours.fit(TRAIN, 1).scores(query).tolist() == [[1.0, 0.0]]


def test_more_neighbours_than_samples_are_all_samples() -> None:
    query = torch.tensor([[0.2, 1.0]])
    few, many = nearest_neighbours.fit_path(TRAIN, [3, 200])
    torch.testing.assert_close(few.scores(query), many.scores(query))
    assert nearest_neighbours.default_settings(TRAIN) == (10.0,)


def test_no_query_has_no_scores() -> None:
    assert nearest_neighbours.fit(TRAIN, 1).scores(torch.zeros(0, 2)).shape == (0, 2)
