"""The same network as torchvision's of the same sizes, with the same names of parameters."""

from __future__ import annotations

import pytest
import torch
import torchvision

from vlp.models.vision.resnet import ResNetVision
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError

LEVELS = [f"backbone.layer{stage}" for stage in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet18", {"layers": (2, 2, 2, 2), "bottleneck": False}),
        ("resnet50", {}),
        ("resnext50_32x4d", {"groups": 32, "width_per_group": 4}),
    ],
)
@torch.no_grad()
def test_equals_torchvision(name: str, sizes: dict[str, object]) -> None:
    original = torchvision.models.get_model(name).eval()
    state = {key: value for key, value in original.state_dict().items() if not key.startswith("fc.")}
    tower = ResNetVision(**sizes).eval()
    tower.backbone.load_state_dict(state)
    original.fc = torch.nn.Identity()
    pixels = torch.randn(2, 3, 64, 96)
    tokens = tower(Image(pixels=pixels))
    torch.testing.assert_close(tokens.pooled, original(pixels))
    assert tokens.grid == (2, 3)
    assert tokens.states.shape == (2, 6, tower.states_width)


def test_maps_of_each_stage_and_where_they_are_halved() -> None:
    sizes = {"layers": (1, 2, 1, 1), "stem": 4, "planes": 2, "groups": 2}
    towers = [ResNetVision(**sizes, stride_in_1x1=stride).eval() for stride in (False, True)]
    towers[1].load_state_dict(towers[0].state_dict())
    image = Image(pixels=torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8))
    with torch.no_grad():
        maps = [VisionLanguageModel(vision=tower).encode_image(image, levels=LEVELS).levels for tower in towers]
    for stage, name in enumerate(LEVELS):
        assert maps[0][name].shape == maps[1][name].shape == (1, 8 * 2**stage, 16 // 2**stage, 24 // 2**stage)
    assert torch.equal(maps[0][LEVELS[0]], maps[1][LEVELS[0]])
    assert not torch.allclose(maps[0][LEVELS[1]], maps[1][LEVELS[1]])
    first = towers[1].backbone.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"layers=\[1, 2\]"):
        ResNetVision(layers=(1, 2))
    with pytest.raises(UserError, match="are of bottlenecks"):
        ResNetVision(bottleneck=False, groups=2)
    with pytest.raises(UserError, match="setting of ResNets with bottlenecks"):
        ResNetVision(layers=(1, 1, 1, 1), bottleneck=False, stem=4, planes=2, stride_in_1x1=True)
