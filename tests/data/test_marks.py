from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from vlp.data.example_dataset import ExampleDataset
from vlp.data.marks import draw_marks, line_width
from vlp.data.transforms import EvalTransform
from vlp.data.view import View
from vlp.structures import Sample

CYAN, MAGENTA = (0, 255, 255), (255, 0, 255)


def marked(boxes: Any, *, marks: Any = (0,), colours: Any = (CYAN,)) -> Sample:
    return Sample(id=0, sample=0, image=Path("x.png"), boxes=boxes, marks=marks, mark_colours=colours)


def drawn(sample: Sample, *, view: View | None = None, side: int = 48, value: int = 100) -> torch.Tensor:
    pixels = torch.full((3, side, side), value, dtype=torch.uint8)
    return draw_marks(pixels, view or View(left=0, top=0, width=side, height=side, size=(side, side)), sample)


def is_colour(pixels: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    return (pixels == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0)


def test_an_outline_around_the_box_and_fifteen_percent_inside() -> None:
    pixels = drawn(marked(((10, 20, 30, 26),)))
    expected = torch.full((3, 48, 48), 100, dtype=torch.uint8)
    expected[:, 19:27, 9:31] = torch.tensor(CYAN, dtype=torch.uint8)[:, None, None]
    inside = torch.tensor([85, 123, 123], dtype=torch.uint8)  # 100 + 0.15 (0 - 100); 100 + 0.15 (255 - 100)
    expected[:, 20:26, 10:30] = inside[:, None, None]
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize(("side", "line"), [(16, 1), (64, 2), (96, 2), (384, 10)])
def test_lines_are_in_proportion_to_the_picture(side: int, line: int) -> None:
    assert line_width(side, 2 * side) == line_width(2 * side, side) == line
    middle = side // 2
    row = is_colour(drawn(marked(((middle - 2, middle - 2, middle + 2, middle + 2),)), side=side), CYAN)[middle]
    assert row.nonzero()[:, 0].tolist() == [
        *range(middle - 2 - line, middle - 2),
        *range(middle + 2, middle + 2 + line),
    ]


def test_a_box_of_the_complete_picture_has_its_outline_inside() -> None:
    cyan = is_colour(drawn(marked(((0, 0, 48, 48),))), CYAN)
    assert cyan[0].all()
    assert cyan[:, -1].all()
    assert not cyan[1:-1, 1:-1].any()


def test_marks_follow_crop_size_and_mirror() -> None:
    """The right half of a photo, mirrored and twice as large: its box is where the photo's pixels are."""
    view = View(left=24, top=0, width=24, height=48, size=(96, 48), mirrored=True)
    sample = marked(((30, 10, 34, 20), (0, 0, 10, 10)), marks=(0, 1), colours=(CYAN, MAGENTA))
    pixels = draw_marks(torch.zeros(3, 96, 48, dtype=torch.uint8), view, sample)
    rows, columns = is_colour(pixels, CYAN).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 40, 48 - 20 - 1, 48 - 12)
    assert not is_colour(pixels, MAGENTA).any()  # what the view does not show has no mark


def test_a_thing_at_the_edge_of_the_view_is_still_marked() -> None:
    cyan = is_colour(drawn(marked(((40, 10, 90, 20),))), CYAN)
    assert cyan[10:20, 39].all()
    assert cyan[10:20, 47].all()


def test_only_what_is_marked_is_drawn_and_colours_belong_to_marks() -> None:
    sample = marked(((2, 2, 6, 6), (20, 20, 26, 26), (36, 36, 40, 40)), marks=(2, 1), colours=(CYAN, MAGENTA))
    pixels = drawn(sample)
    assert is_colour(pixels, CYAN)[35, 36:40].all()
    assert is_colour(pixels, MAGENTA)[19, 20:26].all()
    assert (pixels[:, :10, :10] == 100).all()


def test_without_marks_the_pixels_are_the_same() -> None:
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    view = View(left=0, top=0, width=8, height=8, size=(8, 8))
    assert draw_marks(pixels, view, marked(((1, 1, 3, 3),), marks=(), colours=())) is pixels


def test_examples_show_marks_on_the_view(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.full((96, 96, 3), 100, dtype=np.uint8)).save(path)
    sample = Sample(
        id=0, sample=0, image=path, question="what?", boxes=((20, 40, 60, 52),), marks=(0,), mark_colours=(CYAN,)
    )
    examples = ExampleDataset([sample], name="a", transform=EvalTransform(image_size=48, mode="squash"), training=False)
    assert torch.equal(examples[(0, 0)].pixels, drawn(marked(((10, 20, 30, 26),))))
