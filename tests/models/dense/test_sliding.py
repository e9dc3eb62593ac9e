from __future__ import annotations

import pytest
import torch

from vlp.models.dense.sliding import sliding_logits, window_starts
from vlp.structures import Image
from vlp.system.errors import UserError


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(8, 8, 4, [0]), (16, 8, 8, [0, 8]), (17, 8, 8, [0, 8, 9]), (20, 8, 4, [0, 4, 8, 12]), (9, 8, 3, [0, 1])],
)
def test_windows_cover_a_side_and_end_with_it(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(UserError, match="7 pixels is smaller than the window of 8"):
        window_starts(7, 8, 4)


def test_logits_of_each_pixel_are_the_same_in_every_window() -> None:
    pixels = torch.randint(0, 256, (2, 3, 13, 19), dtype=torch.uint8)
    found = sliding_logits(lambda x: x.pixels.double(), Image(pixels=pixels), window=(8, 8), stride=(4, 5))
    torch.testing.assert_close(found, pixels.double())


def test_where_windows_overlap_is_their_mean() -> None:
    calls: list[int] = []

    def number(image: Image) -> torch.Tensor:
        calls.append(1)
        return torch.full((1, 1, 2, 2), float(len(calls)))

    found = sliding_logits(
        number, Image(pixels=torch.zeros(1, 3, 4, 6, dtype=torch.uint8)), window=(4, 4), stride=(4, 2)
    )
    assert found[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]
