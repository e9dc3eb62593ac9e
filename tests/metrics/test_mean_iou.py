from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import run_processes
from vlp.distributed import sum_over_ranks
from vlp.metrics.mean_iou import class_ious, confusion_matrix, mean_iou
from vlp.system.errors import UserError

REFERENCE = Path(__file__).resolve().parents[3] / "shared/reference/segmentation_metrics"


def label_maps(seed: int, classes: int, photos: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Of which the last class is never true, and some pixels are void."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes - 1, (photos, 9, 11), generator=generator)
    predicted = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.6,
        truth,
        torch.randint(0, classes, truth.shape, generator=generator),
    )
    return truth.masked_fill(torch.rand(truth.shape, generator=generator) < 0.1, 255), predicted


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference numbers are not beside the checkout")
def test_equals_the_reference_by_both_rules() -> None:
    expected = json.loads((REFERENCE / "expected.json").read_text())["semantic"]
    with np.load(REFERENCE / "semantic.npz") as maps:
        truth, predicted = torch.from_numpy(maps["gt"]), torch.from_numpy(maps["pred"])
    confusion = confusion_matrix(truth, predicted, len(expected["iou"]))
    assert confusion.tolist() == expected["confusion"]
    ious = [float("nan") if value is None else value for value in expected["iou"]]
    assert class_ious(confusion).tolist() == pytest.approx(ious, abs=1e-12, nan_ok=True)
    figures = mean_iou(confusion)
    assert figures["miou"] == pytest.approx(100 * expected["miou_mmseg_nanmean"], abs=1e-10)
    assert figures["miou_present"] == pytest.approx(100 * expected["miou_detectron2_only_classes_in_gt"], abs=1e-10)
    assert figures["pixel_accuracy"] == pytest.approx(100 * expected["pixel_accuracy"], abs=1e-10)


@pytest.mark.parametrize("classes", [2, 5, 150])
def test_equals_counting_by_sets_of_pixels(classes: int) -> None:
    truth, predicted = label_maps(classes, classes)
    counted = truth != 255
    by_class = {}
    for label in range(classes):
        is_true, is_predicted = (truth == label) & counted, (predicted == label) & counted
        if int((is_true | is_predicted).sum()):
            by_class[label] = float((is_true & is_predicted).sum() / (is_true | is_predicted).sum().double())
    present = [iou for label, iou in by_class.items() if bool((truth == label).any())]
    figures = mean_iou(confusion_matrix(truth, predicted, classes))
    assert figures["miou"] == pytest.approx(100 * sum(by_class.values()) / len(by_class), abs=1e-10)
    assert figures["miou_present"] == pytest.approx(100 * sum(present) / len(present), abs=1e-10)
    assert figures["pixel_accuracy"] == pytest.approx(
        100 * float((truth == predicted)[counted].double().mean()), abs=1e-10
    )


def test_the_rules_differ_by_a_class_that_is_only_predicted() -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2]), 4)
    figures = mean_iou(confusion)
    assert figures["miou"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)  # the fourth class is nowhere
    assert figures["miou_present"] == pytest.approx(100 * (1 + 0.5) / 2)


def test_without_a_counted_pixel_the_figures_are_undefined() -> None:
    void = torch.full((2, 2), 255)
    assert set(mean_iou(confusion_matrix(void, torch.zeros(2, 2).long(), 3)).values()) == {None}


@pytest.mark.parametrize(("truth", "predicted"), [(3, 0), (0, 3)])
def test_a_class_that_does_not_exist_is_refused(truth: int, predicted: int) -> None:
    with pytest.raises(UserError, match="class 3, and there are 3 classes"):
        confusion_matrix(torch.tensor([truth]), torch.tensor([predicted]), 3)


def figures_of_rank(rank: int, world: int) -> dict[str, float | None]:
    """All void on the last rank."""
    truth, predicted = label_maps(0, 5)
    own = slice(0, 4) if world == 1 else (slice(0, 3), slice(3, 4))[rank]
    truth[3] = 255
    return mean_iou(sum_over_ranks(confusion_matrix(truth[own], predicted[own], 5)))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    first, second = run_processes(2, figures_of_rank, tmp_path)
    assert first == second == figures_of_rank(0, 1)
