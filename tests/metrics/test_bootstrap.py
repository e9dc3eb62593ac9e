"""The paired bootstrap's interval against the normal one where that is exact, and with groups of queries."""

from __future__ import annotations

import pytest
import torch

from vlp.metrics.bootstrap import bootstrap_means, confidence_interval


def test_is_the_normal_interval_of_many_independent_queries() -> None:
    difference = torch.randn(4000, generator=torch.Generator().manual_seed(1)).double() + 0.3
    low, high = confidence_interval(bootstrap_means(difference, torch.arange(4000), draws=4000))
    half = 1.96 * float(difference.std()) / 4000**0.5
    assert (low, high) == pytest.approx(
        (float(difference.mean()) - half, float(difference.mean()) + half), abs=half / 10
    )


def test_queries_of_one_image_are_drawn_together() -> None:
    """Five copies of each query say nothing new: the interval is that of one."""
    difference = torch.randint(-1, 2, (500,), generator=torch.Generator().manual_seed(2)).double()
    alone = bootstrap_means(difference, torch.arange(500))
    copies = bootstrap_means(difference.repeat_interleave(5), torch.arange(500).repeat_interleave(5))
    torch.testing.assert_close(copies, alone)


def test_no_difference_is_certain() -> None:
    assert confidence_interval(bootstrap_means(torch.zeros(10), torch.arange(10))) == (0.0, 0.0)
