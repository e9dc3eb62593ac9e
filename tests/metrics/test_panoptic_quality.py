from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.processes import run_processes
from vlp.distributed import sum_over_ranks
from vlp.metrics.panoptic_quality import count_matches, panoptic_quality
from vlp.structures import Segment
from vlp.system.errors import UserError

REFERENCE = Path(__file__).resolve().parents[3] / "shared/reference/segmentation_metrics"
CLASSES = 4


def photo(seed: int) -> tuple[np.ndarray, list[Segment], np.ndarray, list[Segment]]:
    """Random rectangles with void, crowds of a class, and a prediction that shares most of them."""
    random = np.random.default_rng(seed)
    truth, predicted = np.zeros((12, 15), dtype=np.int64), np.zeros((12, 15), dtype=np.int64)
    labels, crowds, guesses = {}, {}, {}
    for number in range(1, 8):
        top, left = random.integers(0, 9), random.integers(0, 11)
        height, width = random.integers(2, 7, 2)
        truth[top : top + height, left : left + width] = number
        labels[number], crowds[number] = int(random.integers(0, CLASSES - 1)), bool(random.random() < 0.3)
        shift = int(random.integers(0, 2))
        predicted[top + shift : top + height, left : left + width] = 70_000 + number
        guesses[70_000 + number] = labels[number] if random.random() < 0.8 else int(random.integers(0, CLASSES))
    segments = [Segment(i, labels[i], crowds[i]) for i in labels if (truth == i).any()]
    return truth, segments, predicted, [Segment(i, guesses[i]) for i in guesses if (predicted == i).any()]


def by_sets(truth: np.ndarray, true: list[Segment], predicted: np.ndarray, ours: list[Segment]) -> Tensor:
    """The definition on sets of pixels, segment by segment."""
    counts = torch.zeros(CLASSES, 4, dtype=torch.float64)
    void, matched_true, matched = truth == 0, set(), set()
    for a in true:
        for b in ours:
            first, second = truth == a.id, (predicted == b.id) & ~void
            iou = (first & second).sum() / (first | second).sum()
            if a.label == b.label and not a.crowd and iou > 0.5:
                counts[a.label, :2] += torch.tensor([iou, 1])
                matched_true.add(a.id), matched.add(b.id)
    for a in true:
        counts[a.label, 3] += not a.crowd and a.id not in matched_true
    for b in ours:
        crowd = [a.id for a in true if a.crowd and a.label == b.label][-1:]
        inside = (predicted == b.id) & (void | np.isin(truth, crowd))
        if b.id not in matched and 2 * inside.sum() <= (predicted == b.id).sum():
            counts[b.label, 2] += 1
    return counts


def reference_photo(
    annotation: dict[str, object], folder: str, index: dict[int, int]
) -> tuple[np.ndarray, list[Segment]]:
    colours = np.asarray(Image.open(REFERENCE / folder / str(annotation["file_name"]))).astype(np.int64)
    segments = [
        Segment(s["id"], index[s["category_id"]], bool(s.get("iscrowd")), s.get("area"))
        for s in annotation["segments_info"]
    ]
    return colours @ np.array([1, 256, 65536]), segments


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference numbers are not beside the checkout")
def test_equals_panopticapi_with_crowds_and_void() -> None:
    expected = json.loads((REFERENCE / "expected.json").read_text())
    truth = json.loads((REFERENCE / "panoptic_gt.json").read_text())
    predictions = {a["image_id"]: a for a in json.loads((REFERENCE / "panoptic_pred.json").read_text())["annotations"]}
    index = {category["id"]: position for position, category in enumerate(truth["categories"])}
    things = [bool(category["isthing"]) for category in truth["categories"]]
    counts = torch.zeros(len(index), 4, dtype=torch.float64)
    for annotation in truth["annotations"]:
        pixels, segments = reference_photo(annotation, "gt", index)
        ours, our_segments = reference_photo(predictions[annotation["image_id"]], "pred", index)
        counts += count_matches(pixels, segments, ours, our_segments, len(index))
    quality = panoptic_quality(counts)
    for category, position in index.items():
        for name, value in expected["per_class"][str(category)].items():
            assert float(getattr(quality, name)[position]) == pytest.approx(value, abs=1e-12), (category, name)
    for group, chosen in {"All": None, "Things": things, "Stuff": [not thing for thing in things]}.items():
        for name, value in quality.mean(chosen).items():
            assert value == pytest.approx(100 * expected[group][name], abs=1e-10), (group, name)
        assert int((quality.occurs & torch.tensor(chosen or [True] * len(things))).sum()) == expected[group]["n"]


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_definition_on_sets_of_pixels(seed: int) -> None:
    torch.testing.assert_close(count_matches(*photo(seed), CLASSES), by_sets(*photo(seed)), rtol=1e-12, atol=1e-12)


def test_the_cases_together_have_matches_crowds_and_errors() -> None:
    counts = sum(by_sets(*photo(seed)) for seed in range(12))
    assert bool((counts[: CLASSES - 1] > 0).all())
    assert any(segment.crowd for seed in range(12) for segment in photo(seed)[1])


def test_truth_fed_back_is_perfect_and_a_class_without_segments_has_no_part() -> None:
    truth = np.array([[1, 1, 2], [1, 0, 2]])
    segments = [Segment(1, 0), Segment(2, 2)]
    quality = panoptic_quality(count_matches(truth, segments, truth, segments, 3))
    assert quality.mean() == {"pq": 100, "sq": 100, "rq": 100}
    assert quality.mean([False, True, False]) == {"pq": None, "sq": None, "rq": None}


def test_a_prediction_inside_a_crowd_of_its_class_is_no_error() -> None:
    truth, ours = np.full((4, 4), 5), np.zeros((4, 4), dtype=np.int64)
    ours[:2] = 9
    crowd = [Segment(5, 1, True)]
    assert count_matches(truth, crowd, ours, [Segment(9, 1)], 2).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert count_matches(truth, crowd, ours, [Segment(9, 0)], 2).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_segment_that_is_only_listed_is_refused() -> None:
    pixels = np.ones((2, 2), dtype=np.int64)
    with pytest.raises(UserError, match=r"\[2\]"):
        count_matches(pixels, [Segment(1, 0)], pixels, [Segment(1, 0), Segment(2, 0)], 1)


def counts_of_rank(rank: int, world: int) -> list[float]:
    """The last rank has one photo in which nothing is true or predicted."""
    empty = (np.zeros((3, 3), dtype=np.int64), [], np.zeros((3, 3), dtype=np.int64), [])
    photos = [photo(0), photo(1), empty]
    own = photos if world == 1 else (photos[:2], photos[2:])[rank]
    counts = sum(count_matches(*one, CLASSES) for one in own)
    return panoptic_quality(sum_over_ranks(counts)).pq.tolist()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    first, second = run_processes(2, counts_of_rank, tmp_path)
    assert first == second == pytest.approx(counts_of_rank(0, 1), abs=1e-12)
