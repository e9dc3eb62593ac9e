"""IoU and figures of phrases, on cases computed by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from vlp.metrics.grounding import mask_overlap, merged_box, paired_iou, phrase_figures


def _boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_iou_by_hand_with_and_without_the_added_pixel() -> None:
    first, second = (
        _boxes((0, 0, 10, 10), (0, 0, 4, 4), (0, 0, 2, 2)),
        _boxes((5, 0, 15, 10), (0, 0, 4, 8), (2, 0, 4, 2)),
    )
    assert paired_iou(first, second).tolist() == pytest.approx([1 / 3, 1 / 2, 0])
    # sides 11, overlap 6 x 11; 5 x 5 in 5 x 9; sides 3, overlap 1 x 3
    expected = [66 / (2 * 121 - 66), 25 / 45, 3 / (2 * 9 - 3)]
    assert paired_iou(first, second, added_pixel=True).tolist() == pytest.approx(expected)
    assert paired_iou(_boxes((1, 1, 1, 1)), _boxes((1, 1, 1, 1))).tolist() == [0]


def test_iou_equals_torchvision() -> None:
    torch.manual_seed(0)
    first, second = (torch.rand(50, 4, dtype=torch.float64).sort(1).values[:, [0, 1, 2, 3]] for _ in range(2))
    torch.testing.assert_close(paired_iou(first, second), box_iou(first, second).diagonal(), rtol=0, atol=1e-12)


def test_a_phrase_of_one_thing() -> None:
    figures = phrase_figures(_boxes((0, 0, 10, 10), (0, 0, 10, 20)), _boxes((0, 0, 10, 21)))
    assert figures["mean_iou"] == pytest.approx(10 / 21)
    assert figures["accuracy"] == 0
    assert figures["accuracy_pixel"] == 1  # 11 x 11 of 11 x 22
    assert (figures["merged_r1"], figures["merged_r5"], figures["merged_r10"]) == (0, 1, 1)
    assert (figures["any_r1"], figures["any_r5"]) == (0, 1)


def test_a_phrase_of_two_things_by_both_protocols() -> None:
    gold = _boxes((0, 0, 10, 10), (20, 0, 30, 10))
    assert merged_box(gold).tolist() == [0, 0, 30, 10]
    one = phrase_figures(_boxes((20, 0, 30, 10)), gold)
    assert (one["any_r1"], one["merged_r1"], one["accuracy"]) == (1, 0, 0)
    assert one["mean_iou"] == pytest.approx(1 / 3)
    both = phrase_figures(_boxes((0, 0, 29, 10)), gold)
    assert (both["any_r1"], both["merged_r1"], both["accuracy"]) == (0, 1, 1)


def test_only_the_first_boxes_count() -> None:
    ranked = _boxes(*[(50, 50, 60, 60)] * 5, (0, 0, 10, 10))
    figures = phrase_figures(ranked, _boxes((0, 0, 10, 10)))
    assert [figures[f"any_r{k}"] for k in (1, 5, 10)] == [0, 0, 1]


def test_overlap_of_masks() -> None:
    found, gold = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    found[0, :2], gold[0, 1:3] = True, True
    both, either = mask_overlap(found, gold)
    assert both.tolist() == [4, 0]
    assert either.tolist() == [12, 0]
