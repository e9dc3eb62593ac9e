"""The box of a phrase: loss and targets on cases computed by hand, and photo coordinates there and back."""

from __future__ import annotations

import pytest
import torch

from vlp.models.dense.boxes import to_image, to_photo
from vlp.models.dense.phrase_box import PhraseBoxHead, boxes_of_texts, phrase_box_losses
from vlp.structures import Boxes


def test_losses_by_hand() -> None:
    found = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.2, 0.2]])  # the left half, a square in the middle
    corners = torch.tensor([[0.5, 0.0, 1.0, 1.0], [0.4, 0.4, 0.6, 0.6]])
    l1, giou = phrase_box_losses(found, corners)
    assert l1.item() == pytest.approx(0.5)  # only the first centre is wrong
    assert giou.item() == pytest.approx(1.0, abs=1e-6)  # no overlap, nothing between: GIoU 0; and GIoU 1
    nothing = phrase_box_losses(found[:0].requires_grad_(), corners[:0])
    assert [value.item() for value in nothing] == [0, 0]


def test_boxes_of_a_phrase_are_merged_and_belong_to_their_text() -> None:
    owner = torch.tensor([0, 0, 1, 2, 2])
    boxes = [
        Boxes(xyxy=torch.tensor([[0.1, 0.1, 0.2, 0.3], [0.5, 0.0, 0.6, 0.2]]), label=torch.tensor([1, 1])),
        Boxes(xyxy=torch.zeros(0, 4), label=torch.zeros(0, dtype=torch.int64)),
        Boxes(
            xyxy=torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.5, 0.7]]),
            label=torch.tensor([-1, 0, 1]),  # of no phrase; of its first; empty
        ),
    ]
    rows, corners = boxes_of_texts(boxes, owner)
    assert rows.tolist() == [1, 3]
    torch.testing.assert_close(corners, torch.tensor([[0.1, 0.0, 0.6, 0.3], [0.2, 0.2, 0.4, 0.4]]))
    rows, corners = boxes_of_texts(boxes[1:2], owner[:1])
    assert (len(rows), corners.shape) == (0, (0, 4))


@pytest.mark.parametrize("frame", [(10.0, 20.0, 200.0, 50.0), (210.0, -5.0, -200.0, 60.0)])
def test_photo_coordinates_there_and_back(frame: tuple[float, ...]) -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    there = to_photo(boxes, torch.tensor(frame, dtype=torch.float64))
    torch.testing.assert_close(to_image(there, torch.tensor(frame, dtype=torch.float64)), boxes)


def test_head() -> None:
    head = PhraseBoxHead(width=6)
    boxes = head(torch.randn(5, 6))
    assert boxes.shape == (5, 4)
    assert ((boxes > 0) & (boxes < 1)).all()
