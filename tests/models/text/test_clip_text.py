from __future__ import annotations

import pytest
import torch

from vlp.models.text.clip_text import ClipText
from vlp.structures import Text

SIZES = {"vocabulary_size": 30, "context_length": 8, "width": 64, "layers": 1}


def test_pooling_positions() -> None:
    """'argmax' the highest id, 'eot' the first of its id, 'end' the last real token, whatever ids they have."""
    ids = torch.tensor([[3, 29, 7, 5, 0, 0]])
    mask = torch.tensor([[True, True, True, True, False, False]])
    text = Text(ids=ids, mask=mask)
    for options, position in ((("argmax", None), 1), (("eot", 7), 2), (("end", None), 3), (("first", None), 0)):
        tower = ClipText(**SIZES, pool=options[0], eot_id=options[1]).eval()
        tokens = tower(text)
        assert torch.equal(tokens.pooled, tokens.states[:, position])


def test_an_empty_text_is_pooled_at_its_first_position() -> None:
    tower = ClipText(**SIZES).eval()
    tokens = tower(Text(ids=torch.zeros(1, 3, dtype=torch.int64), mask=torch.zeros(1, 3, dtype=torch.bool)))
    assert torch.equal(tokens.pooled, tokens.states[:, 0])


def test_bad_input_is_named() -> None:
    tower = ClipText(**SIZES)
    with pytest.raises(ValueError, match="9 tokens for a tower of 8"):
        tower(Text(ids=torch.ones(1, 9, dtype=torch.int64), mask=torch.ones(1, 9, dtype=torch.bool)))
    with pytest.raises(ValueError, match="eot_id"):
        ClipText(**SIZES, pool="eot")
