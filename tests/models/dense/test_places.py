from __future__ import annotations

import pytest
import torch

from vlp.models.dense.places import Places, cell_centres, image_extent, places_on_image
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


def _tokens(**fields: object) -> Tokens:
    states = torch.arange(2 * 7 * 4, dtype=torch.float32).reshape(2, 7, 4)
    return Tokens(**{"states": states, "pooled": states[:, 0], "grid": (2, 3), **fields})


def test_places_are_the_last_states_and_their_cells_centres() -> None:
    tokens = _tokens()
    places, grid = Places(width=4, norm=False)(tokens)
    assert grid == (2, 3)
    torch.testing.assert_close(places, tokens.states[:, 1:])
    centres = cell_centres(grid, places)
    torch.testing.assert_close(centres[:, 0], torch.tensor([1, 3, 5, 1, 3, 5]) / 6)
    torch.testing.assert_close(centres[:, 1], torch.tensor([1, 1, 1, 3, 3, 3]) / 4)


def test_class_token_multiplies_each_place() -> None:
    tokens = _tokens()
    places, _ = Places(width=4, norm=False, class_token=True)(tokens)
    torch.testing.assert_close(places, tokens.states[:, 1:] * tokens.states[:, :1])
    without = _tokens(states=tokens.states[:, 1:], pooled=tokens.pooled)
    with pytest.raises(UserError, match="no class token"):
        Places(width=4, class_token=True)(without)


def test_levels_are_added_at_the_size_of_the_largest() -> None:
    torch.manual_seed(0)
    levels = {"fine": torch.randn(2, 5, 4, 6), "coarse": torch.randn(2, 3, 1, 1)}
    head = Places(width=8, states_width=4, levels=["fine", "coarse"], level_widths=[5, 3], norm=False)
    places, grid = head(_tokens(levels=levels))
    assert grid == (4, 6)
    assert places.shape == (2, 24, 8)
    changed, _ = head(_tokens(levels=levels | {"coarse": levels["coarse"] + 1}))
    torch.testing.assert_close(changed - places, head.lateral[1].weight[:, :, 0, 0].sum(1).expand(2, 24, 8))
    with pytest.raises(UserError, match="run without it"):
        head(_tokens())
    with pytest.raises(UserError, match="name levels to map them"):
        Places(width=8, states_width=4)


def test_places_on_padding_are_known() -> None:
    """The second image has 16 of 32 rows and all columns."""
    image = Image(pixels=torch.zeros(2, 3, 32, 48, dtype=torch.uint8), size=torch.tensor([[32, 48], [16, 48]]))
    extent = image_extent(image, torch.zeros(1))
    torch.testing.assert_close(extent, torch.tensor([[1, 1], [1, 0.5]]))
    assert places_on_image((4, 2), extent).tolist() == [[True] * 8, [True] * 4 + [False] * 4]
    assert image_extent(Image(pixels=image.pixels), torch.zeros(1)).tolist() == [[1, 1], [1, 1]]
