from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlp.data.view import View
from vlp.models.dense.photo_pixels import read_at_photo


def maps(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("photo_size", [(20, 31), (3, 4), (8, 12)])
def test_a_photo_from_edge_to_edge_is_interpolated(photo_size: tuple[int, int]) -> None:
    frame = torch.tensor([0.0, 0.0, photo_size[1], photo_size[0]])
    expected = F.interpolate(maps(8, 12)[None], photo_size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(read_at_photo(maps(8, 12), frame=frame, photo_size=photo_size), expected)


def test_a_padded_image_and_a_mirrored_one_give_the_same() -> None:
    frame = torch.tensor([0.0, 0.0, 10.0, 6.0])
    expected = read_at_photo(maps(6, 10), frame=frame, photo_size=(6, 10))
    torch.testing.assert_close(expected, maps(6, 10))
    padded = F.pad(maps(6, 10), (0, 5, 0, 2), value=99.0)
    found = read_at_photo(
        padded, frame=frame, photo_size=(6, 10), extent=torch.tensor([10 / 15, 6 / 8], dtype=torch.float64)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    mirrored = torch.tensor([10.0, 0.0, -10.0, 6.0])
    torch.testing.assert_close(read_at_photo(maps(6, 10).flip(2), frame=mirrored, photo_size=(6, 10)), expected)


def test_a_view_beyond_the_photo_puts_each_pixel_where_it_was() -> None:
    """A photo of 1 : 4, letterboxed: a view of a square around it, read back at its own size."""
    photo = torch.arange(4 * 16).reshape(4, 16) % 7
    view = View(left=0, top=-6, width=16, height=16, size=(32, 32))
    shown = F.one_hot(view.resample_classes(photo).clamp(max=7), 8).double().permute(2, 0, 1)
    assert read_at_photo(shown, frame=torch.tensor(view.frame), photo_size=(4, 16)).argmax(0).equal(photo)


def test_what_a_crop_leaves_out_gets_its_edge() -> None:
    view = View(left=4, top=0, width=4, height=4, size=(4, 4))
    found = read_at_photo(maps(4, 4), frame=torch.tensor(view.frame), photo_size=(4, 12))
    torch.testing.assert_close(found[:, :, :4], maps(4, 4)[:, :, :1].expand(3, 4, 4))
    torch.testing.assert_close(found[:, :, 8:], maps(4, 4)[:, :, 3:].expand(3, 4, 4))
    torch.testing.assert_close(found[:, :, 4:8], maps(4, 4))
