"""Levels of boxes, RoIAlign against its definition, gradients. Detectron2's own numbers: tests/checkpoints/test_detectron2.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlp.models.dense.regions import RegionFeatures, box_levels, pool_boxes, region_features, to_pixels
from vlp.structures import Boxes, Tokens
from vlp.system.errors import UserError


def squares(*sides: float) -> Tensor:
    return torch.tensor([[10.0, 20.0, 10.0 + side, 20.0 + side] for side in sides])


def test_levels_by_hand() -> None:
    boxes = squares(0.5, 55, 57, 111, 113, 223, 225, 447, 449, 2000)
    assert box_levels(boxes).tolist() == [2, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert box_levels(torch.tensor([[0.0, 0.0, 113.0, 450.0]])).tolist() == [4]  # √area = 225
    assert box_levels(boxes, 3, 4).tolist() == [3, 3, 3, 3, 3, 3, 4, 4, 4, 4]


def _ramp(rows: int, columns: int) -> Tensor:
    """A map whose value at (y, x) is x + 100 y, in cells."""
    return (torch.arange(columns) + 100.0 * torch.arange(rows)[:, None])[None, None]


def test_a_linear_map_is_sampled_exactly() -> None:
    maps = [_ramp(16, 16), _ramp(8, 8)]
    box = torch.tensor([[8.0, 12.0, 36.0, 40.0]])
    pooled = pool_boxes(maps, [box], strides=(4, 8), resolution=7)[0, 0]
    x = (8 + 28 * (torch.arange(7) + 0.5) / 7) / 4 - 0.5  # cells, whose centres are at half numbers
    y = (12 + 28 * (torch.arange(7) + 0.5) / 7) / 4 - 0.5
    torch.testing.assert_close(pooled, x + 100 * y[:, None])


def test_boxes_of_several_images_and_levels_keep_their_order() -> None:
    maps = [torch.full((2, 3, 64, 64), 1.0), torch.full((2, 3, 32, 32), 2.0)]
    maps[0][1], maps[1][1] = 10, 20
    boxes = [squares(200, 20), torch.zeros(0, 4), squares(20, 200, 20)]
    maps = [torch.stack([level[0], level[0], level[1]]) for level in maps]
    pooled = pool_boxes(maps, boxes, strides=(4, 8), resolution=2).mean((1, 2, 3))
    assert pooled.tolist() == [2, 1, 10, 20, 10]
    assert pool_boxes(maps, [torch.zeros(0, 4)] * 3, strides=(4, 8), resolution=2).shape == (0, 3, 2, 2)


def test_features_of_any_tower_are_means_of_its_states() -> None:
    raster = _ramp(4, 8).flatten(2).transpose(1, 2)
    states = torch.cat([torch.full((1, 1, 1), 1e6), raster], dim=1)  # a class token before the raster
    tokens = Tokens(states=states, pooled=states[:, 0], grid=(4, 8))
    boxes = Boxes(
        xyxy=torch.tensor([[1 / 8, 0.25, 5 / 8, 0.75], [0.0, 0.0, 1.0, 1.0]]), label=torch.zeros(2, dtype=torch.long)
    )
    features = region_features(tokens, [boxes], resolution=14)[:, 0]
    assert features[0].item() == pytest.approx(2.5 + 100 * 1.5)
    assert features[1].item() == pytest.approx(3.5 + 100 * 1.5, abs=0.01)
    assert to_pixels([boxes], 32, 64)[0].tolist() == [[8, 8, 40, 24], [0, 0, 64, 32]]
    with pytest.raises(UserError, match="no rows and columns"):
        region_features(Tokens(states=states, pooled=states[:, 0]), [boxes])


def test_gradients_reach_every_parameter_of_the_levels_in_use() -> None:
    torch.manual_seed(0)
    regions = RegionFeatures(level_widths=(3, 4, 5, 6), fpn_width=4, fc_widths=(8, 5), resolution=3)
    maps = [torch.randn(1, width, 64 // 2**level, 64 // 2**level) for level, width in enumerate((3, 4, 5, 6))]
    features = regions(maps, [squares(20, 120, 225, 450)])
    assert features.shape == (4, regions.width)
    features.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in regions.parameters())


def test_sizes_that_do_not_fit() -> None:
    regions = RegionFeatures(level_widths=(3, 3, 3, 3), fpn_width=4, fc_widths=(8,))
    maps = [torch.randn(1, 3, side, side) for side in (10, 5, 3, 2)]
    with pytest.raises(UserError, match="multiples of 32"):
        regions(maps, [squares(4)])
    with pytest.raises(UserError, match="those of four maps"):
        RegionFeatures(level_widths=(3, 3, 3))
