from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from vlp.models.dense.boxes import to_corners
from vlp.models.dense.matching import (
    assign,
    cost_of_positives,
    focal_cost,
    match_boxes,
    pairwise_giou,
    softmax_cost,
)


@pytest.fixture
def reference(shared: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(shared / "reference/matching/arrays.npz").items()}


@pytest.mark.parametrize(("name", "weights"), [("detr", (1, 5, 2)), ("focal", (2, 5, 2))])
def test_assignments_of_detr_and_deformable_detr(reference: dict[str, Tensor], name: str, weights: tuple) -> None:
    """Of three images with 3, 0 and 5 objects in one padded batch."""
    logits = reference["logits"]
    cost = softmax_cost(logits) if name == "detr" else focal_cost(logits)
    targets = [reference[f"target_{image}"] for image in range(3)]
    positives = [F.one_hot(reference[f"labels_{image}"], logits.shape[2]).bool() for image in range(3)]
    matched = match_boxes(cost, reference["boxes_cxcywh"], targets, positives, weights=weights)
    for image in range(3):
        own = matched.image == image
        assert torch.equal(matched.prediction[own], reference[f"{name}_{image}_prediction"])
        assert torch.equal(matched.target[own], reference[f"{name}_{image}_target"])


def test_giou_of_the_reference(reference: dict[str, Tensor]) -> None:
    boxes, targets = to_corners(reference["boxes_cxcywh"][0]), to_corners(reference["target_0"])
    torch.testing.assert_close(pairwise_giou(boxes, targets), reference["giou"], atol=1e-12, rtol=0)


def test_giou_of_a_batch_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (to_corners(torch.rand(3, count, 4, generator=generator, dtype=torch.float64)) for count in (6, 4))
    expected = torch.stack([torchvision.ops.generalized_box_iou(*pair) for pair in zip(first, second, strict=True)])
    torch.testing.assert_close(pairwise_giou(first, second), expected, atol=1e-12, rtol=0)


def test_costs_that_are_not_finite_do_not_stop_the_assignment() -> None:
    cost = torch.tensor([[[torch.nan, 1.0], [2.0, torch.inf], [3.0, 0.5], [-torch.inf, 9.0]]])
    matched = assign(cost, [2])
    assert list(zip(matched.prediction.tolist(), matched.target.tolist(), strict=True)) == [(2, 1), (3, 0)]
    assert len(assign(torch.full((1, 3, 2), torch.nan), [2])) == 2


def test_only_allowed_predictions_are_chosen_and_some_targets_may_be_left() -> None:
    cost = torch.tensor([[[0.0, 5.0], [1.0, 4.0], [2.0, 1.0]]]).expand(2, 3, 2)
    allowed = torch.tensor([[False, True, True], [False, True, False]])
    matched = assign(cost, [2, 2], allowed)
    assert matched.image.tolist() == [0, 0, 1]
    assert matched.prediction.tolist() == [1, 2, 1]
    assert matched.target.tolist() == [0, 1, 0]


def test_a_batch_without_objects_has_no_pairs() -> None:
    matched = match_boxes(
        torch.zeros(2, 3, 4),
        torch.rand(2, 3, 4),
        [torch.zeros(0, 4)] * 2,
        [torch.zeros(0, 4).bool()] * 2,
        weights=(1, 1, 1),
    )
    assert len(matched) == 0


def test_an_object_of_several_names_costs_their_mean() -> None:
    cost = torch.tensor([[[1.0, 3.0, 8.0]]])
    positive = torch.tensor([[[True, False, True], [False, True, False], [False, False, False]]])
    assert cost_of_positives(cost, positive).tolist() == [[[4.5, 3.0, 0.0]]]
