"""Weights: a number, or points of a schedule with straight lines between them."""

from __future__ import annotations

import pytest

from vlp.objectives.base import Objective, linear_warmup


def test_a_number_is_a_weight_for_the_whole_run() -> None:
    assert [Objective(weight=0.3).weight_at(at) for at in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    assert Objective(weight=0.0).weight == 0


def test_points_of_a_schedule() -> None:
    objective = Objective(weight=[[0.5, 0.0], [0.7, 1.0], [1.0, 0.4]])
    assert objective.weight == 1  # it is trained at some time
    for at, weight in ((0.0, 0.0), (0.5, 0.0), (0.6, 0.5), (0.7, 1.0), (0.85, 0.7), (1.0, 0.4)):
        assert objective.weight_at(at) == pytest.approx(weight)


@pytest.mark.parametrize("weight", [[], [[0.5, 1.0], [0.2, 0.0]], [[0.5]]])
def test_a_schedule_that_is_none(weight: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"points \[fraction, weight\]"):
        Objective(weight=weight)


def test_ramp() -> None:
    assert [linear_warmup(0.4, step, 10) for step in (0, 5, 10, 20)] == [0.0, 0.2, 0.4, 0.4]
    assert linear_warmup(0.4, 0, 0) == 0.4
