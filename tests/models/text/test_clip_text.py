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


def test_gradients_are_bit_exact_in_every_run() -> None:
    """With several threads too: a sum in the order of threads would differ."""
    torch.manual_seed(0)
    tower = ClipText(vocabulary_size=500, context_length=24, width=64, layers=1)
    mask = torch.arange(24)[None, :] < torch.randint(4, 24, (256, 1))
    text = Text(ids=torch.randint(1, 500, (256, 24)) * mask, mask=mask)

    def gradients() -> list[torch.Tensor]:
        tower.zero_grad()
        tower(text, pooled_only=True).pooled.square().sum().backward()
        return [parameter.grad.clone() for parameter in tower.parameters() if parameter.grad is not None]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = gradients()
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    finally:
        torch.set_num_threads(threads)
