from __future__ import annotations

import torch

from vlp.models.dense.dice import dice_losses


def test_closed_forms() -> None:
    torch.testing.assert_close(dice_losses(torch.full((1, 4), 50.0), torch.ones(1, 4)), torch.zeros(1))
    half = dice_losses(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]]))  # 1 − (2 · ½ + 1) / (2 + 1 + 1)
    torch.testing.assert_close(half, torch.tensor([0.5]))
