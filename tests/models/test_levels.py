from __future__ import annotations

import pytest
import torch

from vlp.models.levels import level_widths
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError


def _image(side: int = 16) -> Image:
    generator = torch.Generator().manual_seed(0)
    return Image(pixels=torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator))


def test_maps_of_a_convolutional_tower_and_their_widths() -> None:
    tower = SmallCnn(image_size=16, channels=4).eval()
    tokens = VisionLanguageModel(vision=tower).encode_image(_image(), levels=("stem.0", "blocks"))
    assert tokens.levels is not None
    assert {name: tuple(level.shape) for name, level in tokens.levels.items()} == {
        "stem.0": (2, 4, 8, 8),
        "blocks": (2, 16, 2, 2),
    }
    assert level_widths(tower, ["stem.0", "blocks"]) == [4, 16]
    torch.testing.assert_close(tokens.states, tower(_image()).states, rtol=0, atol=0)
    assert not tower.stem[0]._forward_hooks


def test_blocks_of_a_transformer_are_rasters_without_the_class_token() -> None:
    tower = ClipVit(image_size=16, patch_size=4, width=8, layers=2, heads=2).eval()
    tokens = VisionLanguageModel(vision=tower).encode_image(_image(), levels=("blocks.1",))
    assert tokens.levels is not None
    torch.testing.assert_close(tokens.levels["blocks.1"].flatten(2).mT, tokens.states[:, 1:])
    assert level_widths(tower, ["blocks.1"]) == [8]


def test_unknown_and_shapeless_levels_are_refused() -> None:
    tower = ClipVit(image_size=16, patch_size=4, width=8, layers=1, heads=2)
    with pytest.raises(UserError, match=r"no \['block'\]; among its modules are .*blocks\.0"):
        level_widths(tower, ["block"])
    with pytest.raises(UserError, match=r"norm_post gives .* no map of places"):
        level_widths(tower, ["norm_post"])
