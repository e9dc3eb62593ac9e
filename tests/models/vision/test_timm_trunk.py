"""A frozen trunk that is run once an image, and towers side by side, against plain timm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from vlp.build import FROM_FILES, build
from vlp.models.projection.normed import NormedProjection
from vlp.models.vision.side_by_side import SideBySide
from vlp.models.vision.timm import TimmVision
from vlp.models.vision.timm_trunk import TimmTrunk
from vlp.structures import Image

PIXELS = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)


def tower(**changes: Any) -> TimmTrunk:
    torch.manual_seed(0)
    return TimmTrunk(**{"name": "tf_efficientnet_lite0", "image_size": 64, "trunk": "blocks.5.0"} | changes)


@pytest.mark.parametrize(("name", "trunk"), [("tf_efficientnet_lite0", "blocks.5.0"), ("resnet10t", "layer3.0")])
def test_equals_timm(name: str, trunk: str) -> None:
    ours = tower(name=name, trunk=trunk).eval()
    torch.manual_seed(0)
    plain = TimmVision(name=name, image_size=64).eval()
    torch.testing.assert_close(ours(Image(pixels=PIXELS)).pooled, plain(Image(pixels=PIXELS)).pooled)


def test_the_trunk_runs_once_for_each_image() -> None:
    ours = tower(keep=10).eval()
    calls: list[int] = []
    ours.backbone.conv_stem.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    first = ours(Image(pixels=PIXELS)).states
    again = ours(Image(pixels=PIXELS.flip(0))).states
    assert calls == [3]
    assert first.shape == again.shape
    exact = tower(keep=0).eval()(Image(pixels=PIXELS)).pooled
    torch.testing.assert_close(ours(Image(pixels=PIXELS)).pooled, exact, rtol=2e-2, atol=2e-2)


def test_keeps_no_more_than_told_and_a_copy_shares_it() -> None:
    ours = tower(keep=2).eval()
    ours(Image(pixels=PIXELS))
    assert len(ours._maps) == 2
    assert copy.deepcopy(ours)._maps is ours._maps


def test_only_what_follows_the_trunk_is_trained() -> None:
    ours = tower().train()
    ours(Image(pixels=PIXELS)).pooled.sum().backward()
    trained = {name for name, p in ours.named_parameters() if p.grad is not None}
    assert {".".join(name.split(".")[1:3]) for name in trained} >= {"blocks.5", "conv_head.weight"}
    assert not any(
        name.startswith(("backbone.blocks.4", "backbone.conv_stem", "backbone.blocks.5.0")) for name in trained
    )
    assert not ours.backbone.bn1.training


def test_mirror_average() -> None:
    ours = tower(flip_average=True).eval()
    torch.testing.assert_close(ours(Image(pixels=PIXELS)).pooled, ours(Image(pixels=PIXELS.flip(-1))).pooled)


def test_unknown_trunk_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no such module; choose one of conv_stem"):
        tower(trunk="blocks.9")


def test_side_by_side_is_rebuilt_from_a_file_without_weights() -> None:
    both = SideBySide(towers=[tower(), tower(name="resnet10t", trunk="layer3.0")], image_size=64).eval()
    config = {"_target_": "vlp.models.vision.side_by_side.SideBySide", "image_size": 64} | both.architecture()
    again = build(config, allow=FROM_FILES).eval()
    again.load_state_dict(both.state_dict())
    assert both(Image(pixels=PIXELS)).pooled.shape == (3, both.width) == (3, 1280 + 512)
    torch.testing.assert_close(again(Image(pixels=PIXELS)).pooled, both(Image(pixels=PIXELS)).pooled)


def test_normed_projection_ignores_the_scale_of_features() -> None:
    projection = NormedProjection(image_width=8, text_width=6, width=5, dropout=0.5).eval()
    x = torch.randn(4, 8)
    torch.testing.assert_close(projection.project_image(x), projection.project_image(100 * x), rtol=1e-3, atol=1e-4)
