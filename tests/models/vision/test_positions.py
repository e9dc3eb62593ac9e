"""Positions of other grids than they were learned at, against transformers; what warns of it; which towers refuse."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from vlp.checkpoints.hugging_face import CLIP
from vlp.checkpoints.keys import to_ours
from vlp.models.frozen_levels import FrozenLevels
from vlp.models.vision.clip_resnet import ClipResNet
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.positions import resize_positions, token_grid
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vision.timm import TimmVision
from vlp.models.vision.transformers import TransformersVision
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image
from vlp.system.errors import UserError

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "patch_size": 8}
OTHERS = [
    (32, 32),
    (64, 64),
    (96, 64),
    (40, 88),
    (24, 24),
    (8, 16),
    (70, 49),
]  # the last has patches that are not complete


def clip_towers() -> tuple[Any, ClipVit]:
    """transformers' of 48 pixels, and ours with its weights."""
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(image_size=48, hidden_act="quick_gelu", **SIZES)
    theirs = transformers.CLIPVisionModel(config).eval()
    nn.init.normal_(theirs.get_parameter(next(k for k, _ in theirs.named_parameters() if "position_embedding" in k)))
    ours = ClipVit(image_size=48, patch_size=8, width=24, layers=2, heads=2, mlp_ratio=40 / 24).eval()
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({key.removeprefix("vision."): value for key, value in to_ours(state, CLIP).items()})
    return theirs, ours


@pytest.mark.parametrize("shape", OTHERS)
@torch.no_grad()
def test_clip_at_other_sizes_equals_transformers(shape: tuple[int, int]) -> None:
    theirs, ours = clip_towers()
    pixels = torch.randn(2, 3, *shape)
    expected = theirs(pixel_values=pixels, interpolate_pos_encoding=True)
    found = ours(Image(pixels=pixels))
    torch.testing.assert_close(found.states, expected.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pooled, expected.pooler_output, atol=1e-5, rtol=0)
    assert found.grid == (shape[0] // 8, shape[1] // 8)


@torch.no_grad()
def test_the_native_size_uses_the_positions_as_they_are() -> None:
    positions = torch.randn(37, 24)
    assert resize_positions(positions, (6, 6), (6, 6)) is positions
    theirs, ours = clip_towers()
    pixels = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(Image(pixels=pixels)).states, theirs(pixel_values=pixels).last_hidden_state)


def library_resize(positions: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    grid = positions[len(positions) - before[0] * before[1] :].T.unflatten(1, before)[None]
    resized = F.interpolate(grid, size=after, mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat([positions[: len(positions) - before[0] * before[1]], resized])


@pytest.mark.parametrize("after", [(7, 5), (3, 9), (14, 10), (1, 1), (2, 30)])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_resized_positions_and_their_gradient_are_the_librarys(after: tuple[int, int], extra: int) -> None:
    positions = torch.randn(extra + 28, 3, dtype=torch.float64, requires_grad=True)
    found, expected = resize_positions(positions, (7, 4), after), library_resize(positions, (7, 4), after)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((value * weights).sum(), positions)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_half_precision_is_resized_in_float32() -> None:
    positions = torch.randn(16, 8).bfloat16()
    found = resize_positions(positions, (4, 4), (6, 6))
    assert torch.equal(found, library_resize(positions.float(), (4, 4), (6, 6)).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        inside = resize_positions(positions.float(), (4, 4), (6, 6))
    torch.testing.assert_close(inside, library_resize(positions.float(), (4, 4), (6, 6)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_attention_pooling_and_the_small_network_use_resized_positions() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 96, 128)
    resnet = ClipResNet(image_size=64, layers=[1, 1, 1, 1], stem_width=8, width=12).eval()
    native = ClipResNet(image_size=64, layers=[1, 1, 1, 1], stem_width=8, width=12).eval()
    native.attnpool.positional_embedding = nn.Parameter(torch.empty(13, 256))
    native.attnpool.grid = (3, 4)
    state = resnet.state_dict()
    state["attnpool.positional_embedding"] = library_resize(state["attnpool.positional_embedding"], (2, 2), (3, 4))
    native.load_state_dict(state)
    found, expected = resnet(Image(pixels=pixels)), native(Image(pixels=pixels))
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=0)
    assert found.states.shape[2] == resnet.states_width == 256

    small = SmallCnn(image_size=64, channels=2, positions=True).eval()
    resized = library_resize(small.positions, (8, 8), (12, 16))
    found = small(Image(pixels=pixels))
    small.positions.zero_()
    torch.testing.assert_close(
        found.states - small(Image(pixels=pixels)).states, resized.expand(2, -1, -1), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_transformers_own_towers_resize_at_other_sizes_only() -> None:
    tower = TransformersVision(weights=False, config={"model_type": "vit", "image_size": 48, **SIZES}).eval()
    for shape in ((48, 48), (64, 40), (56, 56)):
        pixels = torch.randn(1, 3, *shape)
        expected = tower.backbone(pixel_values=pixels, interpolate_pos_encoding=shape != (48, 48))
        found = tower(Image(pixels=pixels))
        assert torch.equal(found.states, expected.last_hidden_state)
        assert found.grid == (shape[0] // 8, shape[1] // 8)


@torch.no_grad()
def test_timms_transformers_see_complete_patches_only() -> None:
    options = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    tower = TimmVision(name="vit_tiny_patch16_224", image_size=48, options=options).eval()
    pixels = torch.randn(1, 3, 70, 45)
    found = tower(Image(pixels=pixels))
    assert found.grid == (8, 5)
    torch.testing.assert_close(found.states, tower(Image(pixels=pixels[..., :64, :40])).states)
    assert TimmVision(name="vit_tiny_patch16_224", image_size=48, options=options | {"dynamic_img_pad": True}).eval()(
        Image(pixels=pixels)
    ).grid == (9, 6)


def test_a_tower_that_takes_one_size_only_says_so() -> None:
    beit = TimmVision(
        name="beit_base_patch16_224", image_size=32, options={"embed_dim": 24, "depth": 1, "num_heads": 2}
    ).eval()
    with pytest.raises(
        UserError, match=r"timm's beit_base_patch16_224 does not take images of 48 x 32 pixels .*image_size=32"
    ):
        beit(Image(pixels=torch.zeros(1, 3, 48, 32)))
    config = {"model_type": "ijepa", "image_size": 32, **SIZES}
    tower = TransformersVision(weights=False, config=config, pool="average").eval()
    tower._resizes_on_request = False  # as a model without the argument
    with pytest.raises(UserError, match=r"does not take images of 48 x 32 pixels .*image_size=32"):
        tower(Image(pixels=torch.zeros(1, 3, 48, 32)))


def test_resizing_is_noticed_once() -> None:
    model = VisionLanguageModel(vision=clip_towers()[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_image(Image(pixels=torch.zeros(1, 3, 48, 48)))
    with pytest.warns(UserWarning, match=r"images of 64 x 40 pixels .* learned at 48 x 48: .*eval.image_size = 48"):
        model.encode_image(Image(pixels=torch.zeros(1, 3, 64, 40)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_image(Image(pixels=torch.zeros(1, 3, 56, 56)))
        convolutional = VisionLanguageModel(vision=SmallCnn(image_size=64, channels=2))
        convolutional.encode_image(Image(pixels=torch.zeros(2, 3, 32, 48)))


@pytest.mark.parametrize(
    ("count", "size", "patch", "grid"),
    [(17, (64, 64), 16, (4, 4)), (29, (70, 112), 16, (4, 7)), (8, (64, 128), 8, (2, 4)), (6, (50, 70), 8, (2, 3)),
     (5, (64, 64), 16, None), (50, (64, 64), 16, None)],
)  # fmt: skip
def test_grids_of_tokens(count: int, size: tuple[int, int], patch: int, grid: tuple[int, int] | None) -> None:
    assert token_grid(count, size, patch) == grid


@torch.no_grad()
def test_frozen_levels_know_the_grid_of_their_tokens() -> None:
    torch.manual_seed(0)
    native = ClipVit(image_size=32, patch_size=8, width=16, layers=2, heads=2)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
    timms = TimmVision(name="vit_tiny_patch16_224", image_size=32, options=options)
    towers = [
        FrozenLevels(tower=native, levels=["blocks.0", "blocks.1"], tokens=True),
        FrozenLevels(tower=timms, levels=["backbone.blocks.0", "backbone.blocks.1"], tokens=True, keep=20),
    ]
    for frozen, shape in itertools.product(towers, ((32, 32), (48, 32))):
        image = Image(pixels=torch.randint(0, 256, (3, 3, *shape), dtype=torch.uint8))
        for _ in range(2):  # the second time from the cache of the second one
            tokens = frozen(image)
            assert tokens.grid == (shape[0] // 8, shape[1] // 8)
            assert tokens.states.shape == (3, 1 + tokens.grid[0] * tokens.grid[1], frozen.width)
    swin = TimmVision(
        name="swin_tiny_patch4_window7_224",
        image_size=64,
        options={"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]},
    )
    maps = FrozenLevels(tower=swin, levels=["backbone.layers.0"], tokens=True)
    tokens = maps(Image(pixels=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)))
    assert (tokens.grid, tokens.states.shape[2], maps.width) == ((16, 16), 12, 12)
