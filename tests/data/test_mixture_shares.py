"""Shares of a step by temperature, against cases computed by hand."""

from __future__ import annotations

import math

import pytest

from vlp.data.mixture_shares import sizes_by_temperature
from vlp.system.errors import UserError

COUNTS = {"large": 900, "middle": 90, "small": 10}


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [90, 9, 1]),
        (
            2.0,
            [70, 22, 8],
        ),  # 30 : 9.487 : 3.162 of 42.649, that is 70.34, 22.24 and 7.41, whose remainder is the largest
        (math.inf, [34, 33, 33]),
    ],
)
def test_proportions(temperature: float, expected: list[int]) -> None:
    assert list(sizes_by_temperature(100, COUNTS, temperature).values()) == expected


def test_every_source_has_a_sample_and_the_sum_is_the_batch() -> None:
    assert sizes_by_temperature(4, {"a": 1_000_000, "b": 1, "c": 1}, 1.0) == {"a": 2, "b": 1, "c": 1}
    for batch in range(3, 40):
        for temperature in (1.0, 1.7, 5.0):
            sizes = sizes_by_temperature(batch, COUNTS, temperature)
            assert sum(sizes.values()) == batch
            assert min(sizes.values()) >= 1
    assert sizes_by_temperature(10, {"a": 10**300, "b": 10**299}, 1.0) == {"a": 9, "b": 1}


def test_an_empty_source_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.sources\.small has no training samples"):
        sizes_by_temperature(9, COUNTS | {"small": 0}, 2.0)
