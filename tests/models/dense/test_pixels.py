from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.models.dense.pixels import LinearMap, PixelMap, Upsample, raster_of
from vlp.models.levels import level_widths
from vlp.models.vision.clip_vit import ClipVit
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError

LEVELS = ("stem.0", "stem.1")  # of 16 × 16 and 8 × 8 positions for images of 32 pixels


def tokens_of(rows: int, columns: int, width: int, *, prefix: int = 0, **levels: torch.Tensor) -> Tokens:
    states = torch.randn(2, prefix + rows * columns, width)
    return Tokens(states=states, pooled=states[:, 0], grid=(rows, columns), levels=levels or None)


def image_of(size: int = 32) -> Image:
    return Image(pixels=torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))


def test_raster_leaves_out_the_tokens_before_it() -> None:
    tokens = tokens_of(2, 3, 4, prefix=5)
    assert torch.equal(raster_of(tokens)[:, :, 1, 2], tokens.states[:, -1])
    assert torch.equal(raster_of(tokens)[:, :, 0, 0], tokens.states[:, 5])


def test_a_tower_without_a_raster_is_refused() -> None:
    states = torch.randn(1, 3, 4)
    with pytest.raises(UserError, match="no raster"):
        raster_of(Tokens(states=states, pooled=states[:, 0]))


@pytest.mark.parametrize("up", [0, 1, 3])
def test_each_block_doubles_the_side(up: int) -> None:
    pixels = PixelMap(states_width=6, channels=4, up=up)(tokens_of(2, 3, 6, prefix=1))
    assert pixels.shape == (2, 4, 2 << up, 3 << up)


def test_a_block_in_closed_form() -> None:
    torch.manual_seed(0)
    block, x = Upsample(4).double(), torch.randn(1, 4, 3, 3).double()
    torch.nn.init.normal_(block.norm.weight)
    spread = torch.einsum("bihw,iokl->bohkwl", x, block.spread.weight).reshape(1, 4, 6, 6)
    active = F.gelu(spread + block.spread.bias[:, None, None])
    mixed = F.conv2d(active, block.depthwise.weight, padding=1, groups=4)
    centred = mixed - mixed.mean(1, keepdim=True)
    normed = centred / (mixed.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = normed * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_levels_are_added_where_the_map_has_their_size() -> None:
    """A level of twice the side changes the map only near the position that it has changed at."""
    torch.manual_seed(0)
    head = PixelMap(states_width=6, channels=4, up=2, levels=["a"], level_widths=[5])
    tokens, level = tokens_of(4, 4, 6), torch.randn(2, 5, 8, 8)
    changed = level.clone()
    changed[:, :, 0, 0] += 1
    one, two = (
        head(Tokens(states=tokens.states, pooled=tokens.pooled, grid=tokens.grid, levels={"a": value}))
        for value in (level, changed)
    )
    differs = (one != two).any(1)[0].nonzero()
    assert one.shape == (2, 4, 16, 16)
    assert len(differs)
    assert int(differs.max()) <= 2  # 2 × 2 pixels, and one around them by the 3 × 3 convolution


@pytest.mark.parametrize("head_class", [PixelMap, LinearMap])
def test_levels_of_towers_by_name_get_a_gradient(head_class: type) -> None:
    torch.manual_seed(0)
    tower = SmallCnn(image_size=32, channels=4)
    model = VisionLanguageModel(vision=tower)
    head = head_class(states_width=32, channels=3, levels=LEVELS, level_widths=level_widths(tower, LEVELS))
    head(model.encode_image(image_of(), levels=LEVELS)).square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in head.parameters() if p.ndim > 1)
    assert bool(tower.stem[0][0].weight.grad.abs().sum() > 0)


def test_levels_of_a_transformer_have_the_size_of_its_raster() -> None:
    tower = ClipVit(image_size=32, patch_size=8, width=8, layers=2, heads=2)
    head = PixelMap(
        states_width=8, channels=4, up=1, levels=["blocks.0"], level_widths=level_widths(tower, ["blocks.0"])
    )
    tokens = VisionLanguageModel(vision=tower).encode_image(image_of(), levels=["blocks.0"])
    assert head(tokens).shape == (2, 4, 8, 8)


def test_the_linear_map_is_that_of_all_maps_resized_and_concatenated() -> None:
    torch.manual_seed(0)
    head = LinearMap(states_width=6, channels=3, levels=["a"], level_widths=[5]).double().eval()
    for norm in (head.states[0], head.lateral[0][0]):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    states, level = torch.randn(2, 6, 2, 2).double(), torch.randn(2, 5, 4, 4).double()
    tokens = Tokens(states=states.flatten(2).mT, pooled=states[..., 0, 0], grid=(2, 2), levels={"a": level})
    normed = [head.states[0](F.interpolate(states, (4, 4), mode="bilinear")), head.lateral[0][0](level)]
    weight = torch.cat([head.states[1].weight, head.lateral[0][1].weight], 1)
    expected = F.conv2d(torch.cat(normed, 1), weight, head.states[1].bias)
    torch.testing.assert_close(head(tokens), expected, rtol=1e-10, atol=1e-10)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="one width for each level"):
        PixelMap(states_width=6, channels=4, levels=["a"])
    with pytest.raises(UserError, match="up=-1"):
        PixelMap(states_width=6, channels=4, up=-1)
    with pytest.raises(UserError, match="without it"):
        PixelMap(states_width=6, channels=4, levels=["a"], level_widths=[5])(tokens_of(2, 2, 6))
