"""What captions are also true of, against trying every caption on every picture; and its way into a batch."""

from __future__ import annotations

import pytest
import torch

from vlp.data.collate import pad_also_true
from vlp.scenes.formats import also_true
from vlp.scenes.generate import describe_scene


@pytest.mark.slow
def test_equals_trying_every_caption_on_every_picture() -> None:
    records = [describe_scene(seed=3, split="train", index=index, size=16)[0] for index in range(400)]
    expected = {
        r.file: [[o.id for o in records if o is not r and text.holds(o.scene)] for text in r.captions] for r in records
    }
    found = also_true(records)
    assert found == expected
    assert sum(len(ids) for lists in found.values() for ids in lists) > 100


def test_batches_hold_the_lists_of_the_chosen_captions() -> None:
    assert pad_also_true([(), ()], 3).shape == (2, 3, 0)
    assert pad_also_true([((),), ((),)], 1).shape == (2, 1, 0)
    rows = pad_also_true([((3, 4), ()), ((7,),)], 2)
    assert rows.tolist() == [[[3, 4], [-1, -1]], [[7, -1], [-1, -1]]]
    assert rows.dtype == torch.int64
