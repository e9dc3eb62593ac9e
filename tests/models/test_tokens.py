"""Masks and rows of any tokens; on two processes in tests/objectives/test_wpa.py and test_irtr.py."""

from __future__ import annotations

import torch

from vlp.models.tokens import fetch_tokens, real_mask
from vlp.structures import Tokens


def test_no_mask_means_that_all_are_real() -> None:
    tokens = Tokens(states=torch.randn(2, 3, 4), pooled=torch.randn(2, 4))
    assert real_mask(tokens).tolist() == [[True] * 3] * 2
    masked = Tokens(states=tokens.states, pooled=tokens.pooled, mask=torch.tensor([[True, False, False]] * 2))
    assert real_mask(masked) is masked.mask


def test_one_process_fetches_its_own_rows() -> None:
    states = torch.randn(3, 4, 5, requires_grad=True)
    rows = fetch_tokens(Tokens(states=states, pooled=states[:, 0], grid=(1, 3)), torch.tensor([2, 0, 2]))
    assert torch.equal(rows.states, states[[2, 0, 2]])
    assert rows.grid == (1, 3)
    rows.states.sum().backward()
    assert states.grad.sum((1, 2)).tolist() == [20, 0, 40]
