from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from vlp.metrics.classification import average_precision, exclusive_figures, multi_label_figures


def test_accuracies_with_ties() -> None:
    scores = torch.tensor([[3.0, 1, 0], [1, 2, 2], [0, 1, 2], [0, 0, 0]])
    figures = exclusive_figures(scores, torch.tensor([0, 1, 1, 1]))
    assert figures["top1"] == pytest.approx(100 * (1 + 1 / 2 + 0 + 1 / 3) / 4)
    assert figures["mean_per_class"] == pytest.approx(100 * (1 + (1 / 2 + 0 + 1 / 3) / 3) / 2)
    assert (figures["top5"], figures["classes"], figures["images"]) == (100.0, 2.0, 4.0)


def test_average_precision_by_hand() -> None:
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6], [0.5]])
    targets = torch.tensor([[True], [False], [True], [False], [False]])
    area, eleven = average_precision(scores, targets)
    assert float(area) == pytest.approx((1 + 2 / 3) / 2)
    assert float(eleven) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)  # recalls up to 0.5, and the rest


def test_average_precision_is_torchmetrics_with_and_without_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    for scores in (torch.rand(60, 4, generator=generator), torch.randint(0, 5, (60, 4), generator=generator) / 5):
        targets = torch.rand(60, 4, generator=generator) < 0.3
        expected = multilabel_average_precision(scores.double(), targets.long(), 4, average=None)
        torch.testing.assert_close(average_precision(scores, targets)[0], expected.double(), atol=1e-6, rtol=0)


def test_classes_that_do_not_occur_do_not_count() -> None:
    scores = torch.tensor([[2.0, 9, 1], [1, 9, 2], [0, 0, 0]])
    targets = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
    figures = multi_label_figures(scores, targets)
    assert (figures["mean_average_precision"], figures["classes"], figures["images"]) == (100.0, 2.0, 3.0)
    assert figures["top1"] == 0  # of the two with a class
