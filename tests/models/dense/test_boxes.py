from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vlp.models.dense.boxes import BoxHead, owl_bias, to_centres, to_corners, to_photo
from vlp.models.dense.places import cell_centres


def test_boxes_start_around_their_own_cells() -> None:
    torch.manual_seed(0)
    head = BoxHead(width=6)
    boxes = head(torch.zeros(2, 12, 6), (3, 4))
    torch.testing.assert_close(boxes[0, :, :2], cell_centres((3, 4), boxes), atol=0.01, rtol=0)
    torch.testing.assert_close(boxes[0, :, 2:], torch.tensor([2 / 4, 2 / 3]).expand(12, 2), atol=0.01, rtol=0)


@pytest.mark.parametrize("sign", [-1, 1])
def test_centres_stay_within_reach_and_sizes_finite(sign: int) -> None:
    head = BoxHead(width=6, layers=1, reach=2.0)
    torch.nn.init.constant_(head.mlp.layers[0].bias, sign * 1e4)
    boxes = head(torch.zeros(1, 12, 6), (3, 4))[0]
    torch.testing.assert_close(
        boxes[:, :2] - cell_centres((3, 4), boxes), sign * torch.tensor([2 / 4, 2 / 3]).expand(12, 2)
    )
    assert bool(boxes.isfinite().all())
    assert bool((boxes[:, 2:] > 0).all())


@pytest.mark.parametrize("name", ["owlvit", "owlv2"])
def test_bias_of_owl(shared: Path, name: str) -> None:
    """Also where it saturates, at the last row and column; in float32, whose rounding there the originals share."""
    stored = dict(np.load(shared / f"reference/{name}/outputs.npz"))
    (key,) = [key for key in stored if "bias" in key]
    expected = torch.from_numpy(stored[key]).reshape(-1, 4)
    side = int(len(expected) ** 0.5)
    torch.testing.assert_close(owl_bias((side, side), expected), expected, atol=1e-5, rtol=0)


def test_owl_of_a_rectangle_adds_the_bias() -> None:
    head = BoxHead(width=6, anchor="owl")
    torch.nn.init.zeros_(head.mlp.layers[2].weight)
    torch.nn.init.zeros_(head.mlp.layers[2].bias)
    boxes = head(torch.zeros(1, 6, 6), (2, 3))[0]
    torch.testing.assert_close(boxes[0], torch.tensor([1 / 3, 1 / 2, 1 / 3, 1 / 2]), atol=2e-3, rtol=0)
    torch.testing.assert_close(boxes[5], torch.tensor([1, 1, 1 / 3, 1 / 2]), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="cells or owl"):
        BoxHead(width=6, anchor="corner")


def test_corners_and_centres_are_inverse() -> None:
    corners = torch.tensor([[0.1, 0.2, 0.5, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(to_centres(corners), torch.tensor([[0.3, 0.5, 0.4, 0.6]], dtype=torch.float64))
    torch.testing.assert_close(to_corners(to_centres(corners)), corners)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ([0, 0, 200, 100], [20, 20, 100, 80]),
        ([-100, 50, 400, 100], [-60, 70, 100, 130]),  # a view that begins left of the photo
        ([200, 0, -200, 100], [100, 20, 180, 80]),  # mirrored: left and right change places
    ],
)
def test_boxes_in_pixels_of_the_photo(frame: list[float], expected: list[float]) -> None:
    corners = torch.tensor([[0.1, 0.2, 0.5, 0.8]])
    torch.testing.assert_close(to_photo(corners, torch.tensor(frame).float()), torch.tensor([expected]).float())
