from __future__ import annotations

import pytest
import torch

from tests.towers import toy_batch
from vlp.structures import Text


def test_move_as_one_object() -> None:
    batch = toy_batch().to("meta")
    assert batch.id.device.type == batch.image.pixels.device.type == batch.caption.mask.device.type == "meta"
    assert batch.question is None


def test_select_cuts_to_the_longest_row_left() -> None:
    text = Text(ids=torch.tensor([[1, 2, 3], [4, 0, 0]]), mask=torch.tensor([[True] * 3, [True, False, False]]))
    assert text.select(slice(1, 2)).ids.tolist() == [[4]]


def test_real_rows_name_their_owner() -> None:
    mask = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [1, 1]]]).bool()
    text, owner = Text(ids=torch.arange(8).reshape(2, 2, 2), mask=mask).real_rows()
    assert text.ids.tolist() == [[0, 1], [4, 5], [6, 7]]
    assert owner.tolist() == [0, 1, 1]


def test_wrong_shapes_are_caught_while_testing() -> None:
    with pytest.raises(Exception, match="mask"):
        Text(ids=torch.zeros(2, 3, dtype=torch.long), mask=torch.zeros(2, 4, dtype=torch.bool))
