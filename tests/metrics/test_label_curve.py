from __future__ import annotations

import pytest
import torch

from vlp.metrics.label_curve import labels_worth, mean_and_interval


def test_interval_of_three_draws() -> None:
    mean, half = mean_and_interval([60.0, 62.0, 64.0])
    assert mean == 62
    assert half == pytest.approx(4.303 * 2 / 3**0.5)
    assert mean_and_interval([5.0]) == (5.0, None)


def test_the_interval_covers_the_mean_in_95_of_100() -> None:
    draws = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = [abs(mean) <= half for mean, half in (mean_and_interval(row) for row in draws.tolist())]
    assert 0.94 < sum(covered) / len(covered) < 0.96


def test_labels_that_a_figure_is_worth() -> None:
    points = [(1.0, 30.0), (4.0, 50.0), (16.0, 60.0)]
    assert labels_worth(points, 40.0) == pytest.approx(2)  # half of the way in the logarithm
    assert labels_worth(points, 55.0) == pytest.approx(8)
    assert labels_worth(points, 20.0) == 1
    assert labels_worth(points, 70.0) is None
