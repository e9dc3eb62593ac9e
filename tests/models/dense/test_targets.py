from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.processes import run_processes
from vlp.models.dense.targets import class_positions, class_targets, phrase_targets, select_classes
from vlp.structures import Boxes, Text

CORNERS = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.2, 0.2, 0.8, 0.8]])
ONES = torch.ones(2, 2)


def _nothing() -> Boxes:
    return Boxes(xyxy=CORNERS[:0], label=torch.zeros(0, dtype=torch.int64))


def test_things_crowds_and_classes_in_another_order() -> None:
    """The data's classes are cat, dog and cow; the head's dog and cat, so that a cow is nothing."""
    position = class_positions(("cat", "dog", "cow"), ("dog", "cat"))
    assert position.tolist() == [1, 0, -1]
    row = Boxes(xyxy=CORNERS, label=torch.tensor([0, 2, 1]), crowd=torch.tensor([False, False, True]))
    extent = torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    targets = class_targets([row, _nothing()], extent, position=position, classes=2, image_size=(8, 8))
    torch.testing.assert_close(targets.boxes[0], torch.tensor([[0.0, 0.0, 0.25, 0.5]]))  # half of the width is padding
    assert targets.positive[0].tolist() == [[False, True]]
    torch.testing.assert_close(targets.crowds[0], torch.tensor([[0.1, 0.2, 0.4, 0.8]]))
    assert [len(rows) for rows in (targets.boxes[1], targets.positive[1], targets.crowds[1])] == [0, 0, 0]
    assert targets.unknown is None
    assert targets.masks is None
    assert select_classes(targets, torch.tensor([1])).positive[0].tolist() == [[True]]


def test_masks_are_padded_as_the_images_are() -> None:
    row = Boxes(xyxy=CORNERS, label=torch.tensor([0, -1, 0]), mask=torch.ones(3, 4, 6, dtype=torch.bool))
    targets = class_targets([row, _nothing()], ONES, position=torch.tensor([0]), classes=1, image_size=(5, 8))
    assert targets.masks is not None
    assert targets.masks[0].shape == (2, 5, 8)
    assert targets.masks[0].sum() == 2 * 4 * 6
    assert targets.masks[1].shape == (0, 5, 8)


def test_only_what_was_looked_for_is_absent() -> None:
    """LVIS: class 0 is there, 1 is certainly not, 2 may be more often than it has boxes, nobody looked for 3."""
    none = torch.zeros(0, dtype=torch.int64)
    row = Boxes(
        xyxy=CORNERS[:2], label=torch.tensor([0, 2]), absent=torch.tensor([1]), not_exhaustive=torch.tensor([2])
    )
    empty = Boxes(xyxy=CORNERS[:0], label=none, absent=torch.tensor([3]), not_exhaustive=none)
    targets = class_targets([row, empty], ONES, position=torch.arange(4), classes=4, image_size=(8, 8))
    assert targets.unknown is not None
    assert targets.unknown.tolist() == [[False, False, True, True], [True, True, True, False]]


def _phrases(rows: list[int]) -> dict[str, object]:
    """Image 10 has three captions (0, 1 and 0 again, whose boxes are one thing with two names, and another), 20 has caption 1."""
    images = [
        Boxes(xyxy=CORNERS[[0, 0, 1]], label=torch.tensor([0, 1, 2])),
        Boxes(xyxy=CORNERS[[2]], label=torch.tensor([0])),
    ]
    ids = [[[3, 4], [5, 0], [3, 4]], [[5, 0]]]
    captions = [caption for row in rows for caption in ids[row]]
    text = Text(ids=torch.tensor(captions), mask=torch.tensor(captions) > 0)
    owner = torch.tensor([place for place, row in enumerate(rows) for _ in ids[row]])
    embed = (
        torch.arange(8.0, dtype=torch.float64).reshape(4, 2)[:3]
        if rows[0] == 0
        else torch.tensor([[6.0, 7.0]]).double()
    )
    if len(rows) == 2:
        embed = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)
    also_true = [[[], [20, 99], []], [[]]]
    return {
        "boxes": [images[row] for row in rows],
        "extent": ONES[: len(rows)],
        "text": text,
        "owner": owner,
        "embed": embed.requires_grad_(),
        "ids": torch.tensor([10, 20])[rows],
        "also_true": [known for row in rows for known in also_true[row]],
    }


def test_captions_are_queries_and_equal_boxes_one_thing() -> None:
    targets, queries = phrase_targets(**_phrases([0, 1]))
    torch.testing.assert_close(queries, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).double())  # the first of equal captions
    torch.testing.assert_close(targets.boxes[0], CORNERS[:2])
    assert targets.positive[0].tolist() == [[True, True], [True, False]]
    assert targets.positive[1].tolist() == [[False, True]]
    assert targets.unknown is not None
    assert targets.unknown.tolist() == [[False, False], [False, False]]  # image 20 has the caption itself


def test_captions_that_are_also_true_of_an_image_are_unknown_there() -> None:
    case = _phrases([0, 1])
    case["also_true"] = [[20], [], [], [10, 20]]
    targets, _ = phrase_targets(**case)
    assert targets.unknown is not None
    assert targets.unknown.tolist() == [[False, False], [True, False]]


def _of_rank(rank: int, world: int) -> list[Tensor]:
    targets, queries = phrase_targets(**_phrases([rank]))
    return [queries.detach(), targets.positive[0], targets.unknown]


def test_captions_of_other_processes_are_queries_too(tmp_path: Path) -> None:
    targets, queries = phrase_targets(**_phrases([0, 1]))
    for rank, (found, positive, unknown) in enumerate(run_processes(2, _of_rank, tmp_path)):
        torch.testing.assert_close(found, queries.detach())
        assert torch.equal(positive, targets.positive[rank])
        assert torch.equal(unknown[0], targets.unknown[rank])
