"""From heat to boxes: ALBEF's rule against sums over pixels, and the region around the maximum."""

from __future__ import annotations

import pytest
import torch

from vlp.explanations.boxes import box_around_peak, enlarge, heat_in_boxes


def test_boxes_on_pixel_borders_have_the_sum_of_their_pixels() -> None:
    torch.manual_seed(0)
    heat = torch.randn(6, 8)
    boxes = torch.tensor([[2 / 8, 1 / 6, 5 / 8, 4 / 6], [0, 0, 1, 1]], dtype=torch.float64)
    sums = torch.stack([heat[1:4, 2:5].sum(), heat.sum()]).double()
    for power, areas in ((0.5, [3.0, 48**0.5]), (1.0, [9.0, 48.0]), (0.0, [1.0, 1.0])):
        expected = sums / torch.tensor(areas, dtype=torch.float64)
        torch.testing.assert_close(heat_in_boxes(heat, boxes, power=power), expected, rtol=0, atol=1e-5)


def test_a_cut_pixel_counts_by_its_share_and_an_empty_box_nothing() -> None:
    heat = torch.tensor([[4.0, 8.0]])
    boxes = torch.tensor([[0.25, 0.0, 0.75, 0.5], [0.5, 0.0, 0.5, 1.0], [-1.0, -1.0, 2.0, 2.0]])
    found = heat_in_boxes(heat, boxes, power=0.0).tolist()
    assert found == pytest.approx([0.25 * (4 + 8), 0, 12])


def test_a_small_hot_thing_beats_a_large_box_around_it() -> None:
    heat = torch.zeros(8, 8)
    heat[2:4, 2:4] = 1.0
    boxes = torch.tensor([[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.375, 0.375]])
    assert int(heat_in_boxes(heat, boxes).argmax()) == 1


def test_enlarging_keeps_a_constant() -> None:
    torch.testing.assert_close(enlarge(torch.full((2, 3, 3), 0.5), (9, 12)), torch.full((2, 9, 12), 0.5))


def test_the_region_around_the_maximum_is_connected() -> None:
    heat = torch.zeros(5, 10)
    heat[1, 2], heat[2, 3], heat[2, 4] = 1.0, 0.6, 0.4  # neighbours by a corner; the last one is too cold
    heat[4, 8] = 0.9  # warm, and elsewhere
    assert box_around_peak(heat).tolist() == pytest.approx([2 / 10, 1 / 5, 4 / 10, 3 / 5])
    assert box_around_peak(heat, threshold=0.3).tolist() == pytest.approx([2 / 10, 1 / 5, 5 / 10, 3 / 5])
    assert box_around_peak(torch.zeros(3, 3)).tolist() == [0, 0, 1, 1]
