"""Boxes that are drawn into a picture, so that any model can see what a text names.

Drawn on the view, after cropping, resizing and mirroring: an outline of the box in the colour of its mark, and inside a thin
coat of the same colour. A name in a text and a colour in the picture then stand for the same thing, and no model has to be
changed (Zellers et al., "MERLOT", arXiv:2106.02636, §4.1: `downstream/vcr/data/draw_bbox.py` of rowanz/merlot draws lines of 7
pixels and fills 15 %). Later marks lie over earlier ones.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from vlp.data.view import View
from vlp.structures import Sample

LINE = 1 / 40  # width of an outline, of the shorter side of the picture
FILL = 0.15  # share of the mark's colour inside the outline
Colour = tuple[int, int, int]
# of people, by their number, and of everything else
PHOTO_COLOURS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (250, 190, 212), (0, 128, 128), (220, 190, 255), (170, 110, 40), (128, 0, 0), (0, 0, 128),
)  # fmt: skip
OTHER_COLOUR = (255, 255, 255)
# for generated scenes, whose things have bright colours: cyan, magenta, white, black, lime and brown, none of them a thing's
SCENE_COLOURS = ((0, 255, 255), (255, 0, 255), (255, 255, 255), (0, 0, 0), (160, 255, 0), (110, 60, 10))
PALETTES = {"photos": PHOTO_COLOURS, "scenes": SCENE_COLOURS}


def line_width(height: int, width: int) -> int:
    """Pixels of an outline in a picture of this size: in proportion to its shorter side, and at least one."""
    return max(1, round(min(height, width) * LINE))


def mark_colour(number: int, *, person: bool, palette: str) -> Colour:
    """Of an object, by its number among all of the photo: people's repeat after the last one, and all else has one colour."""
    colours = PALETTES[palette]
    return colours[number % len(colours)] if person else OTHER_COLOUR


def draw_marks(pixels: UInt8[Tensor, "3 h w"], view: View, sample: Sample) -> UInt8[Tensor, "3 h w"]:
    """The picture with the sample's marks; the same tensor where it has none.  view: what of the upright photo it shows."""
    if not sample.marks or sample.boxes is None:
        return pixels
    height, width = pixels.shape[-2:]
    corners, visible = view.project_boxes([sample.boxes[position] for position in sample.marks])
    edges = (corners * corners.new_tensor([width, height, width, height])).round().int().tolist()
    drawn = pixels.float()
    for box, position in zip(edges, visible, strict=True):
        _draw_box(drawn, box, sample.mark_colours[position], line_width(height, width))
    return drawn.round().to(torch.uint8)


def _draw_box(pixels: Tensor, box: list[int], colour: Colour, line: int) -> None:
    """Into float pixels [3 h w].  box: left, top, right and bottom between pixels.  The outline lies outside, so that it hides
    nothing of a thing that fills its box, and inside where the picture ends."""
    height, width = pixels.shape[-2:]
    left, top, right, bottom = box
    outer_left, outer_top = max(0, left - line), max(0, top - line)
    outer_right, outer_bottom = min(width, right + line), min(height, bottom + line)
    rows = slice(max(top, outer_top + line), min(bottom, outer_bottom - line))
    columns = slice(max(left, outer_left + line), min(right, outer_right - line))
    ink = pixels.new_tensor(colour)[:, None, None]
    inside = pixels[:, rows, columns] * (1 - FILL) + FILL * ink
    pixels[:, outer_top:outer_bottom, outer_left:outer_right] = ink
    pixels[:, rows, columns] = inside
