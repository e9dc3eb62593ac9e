from __future__ import annotations

import pytest
import torch

from vlp.models.vision.clip_vit import ClipVit
from vlp.structures import Image
from vlp.system.errors import UserError


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
    with pytest.raises(ValueError, match="class, average or attention"):
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, pool="max")
    with pytest.raises(ValueError, match="unknown activation 'relu'"):
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, activation="relu")
    tower = ClipVit(image_size=16, patch_size=8, width=64, layers=1)
    with pytest.raises(UserError, match="images of 7 x 24 pixels have no complete patch of 8"):
        tower(Image(pixels=torch.zeros(1, 3, 7, 24)))


def test_an_oblong_image_has_a_position_for_each_patch() -> None:
    tower = ClipVit(image_size=[16, 24], patch_size=8, width=64, layers=1).eval()
    tokens = tower(Image(pixels=torch.zeros(2, 3, 16, 24)))
    assert tokens.grid == (2, 3)
    assert tokens.states.shape == (2, 7, 64)
    assert tower(Image(pixels=torch.zeros(2, 3, 24, 16))).grid == (3, 2)


def test_several_queries_are_the_states() -> None:
    options = {"pool": "attention", "pool_queries": 5, "pool_heads": 2, "pool_width": 20, "class_token": False}
    tower = ClipVit(image_size=16, patch_size=8, width=64, layers=1, **options).eval()
    tokens = tower(Image(pixels=torch.randn(2, 3, 16, 16)))
    assert tokens.states.shape == (2, 5, 20)
    assert torch.equal(tokens.pooled, tokens.states[:, 0])
    assert (tower.width, tower.states_width) == (20, 20)
    with pytest.raises(ValueError, match="needs a class token"):
        ClipVit(image_size=16, patch_size=8, width=64, layers=1, class_token=False)
