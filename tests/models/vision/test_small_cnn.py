"""The small convolutional tower: its forms, and that textures are in the places' statistics from the start."""

from __future__ import annotations

import pytest
import torch

from vlp.models.vision.small_cnn import SmallCnn, _cell_mean_and_std
from vlp.structures import Image


@pytest.mark.parametrize("textures", [False, True])
def test_states_pooled_and_grid(textures: bool) -> None:
    tower = SmallCnn(image_size=32, channels=4, positions=True, textures=textures)
    tokens = tower(Image(pixels=torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)))
    assert tokens.states.shape == (3, 16, 32)
    assert tokens.pooled.shape == (3, 32)
    assert tokens.grid == (4, 4)
    tokens.states.square().sum().backward()
    without_gradient = [
        name for name, weight in tower.named_parameters() if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert not without_gradient


def test_statistics_of_each_place() -> None:
    maps = torch.randn(2, 3, 16, 16)
    mean, deviation = _cell_mean_and_std(maps)
    cell = maps[1, 2, 4:8, 8:12]
    assert torch.allclose(mean[1, 2, 1, 2], cell.mean())
    assert torch.allclose(deviation[1, 2, 1, 2], cell.std(correction=0), atol=1e-5)
    flat = torch.zeros(1, 1, 8, 8, requires_grad=True)
    _cell_mean_and_std(flat)[1].sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()  # the root of nothing has no slope
