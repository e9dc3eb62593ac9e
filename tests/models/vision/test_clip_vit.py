from __future__ import annotations

import pytest
import torch

from vlp.models.vision.clip_vit import ClipVit
from vlp.structures import Image


def test_average_of_normed_tokens_is_not_norm_of_the_average() -> None:
    torch.manual_seed(0)
    towers = [
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, pool="average", norm_before_pool=before).eval()
        for before in (True, False)
    ]
    towers[1].load_state_dict(towers[0].state_dict())
    first, second = (tower(Image(pixels=torch.randn(2, 3, 16, 16))).pooled for tower in towers)
    assert not torch.allclose(first, second)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="vision_heads"):
        ClipVit(image_size=16, patch_size=8, width=48, layers=1)
    with pytest.raises(ValueError, match="class or average"):
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, pool="max")
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, activation="relu")
    tower = ClipVit(image_size=16, patch_size=8, width=64, layers=1)
    with pytest.raises(ValueError, match="24, 24"):
        tower(Image(pixels=torch.zeros(1, 3, 24, 24)))
