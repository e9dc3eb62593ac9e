"""Pictures of what was found in photos, with what is there as dashed boxes: boxes with names, scores and masks, and phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb as colour_to_rgb

from vlp.data.masks import decode_mask
from vlp.report.drawing import (
    CORRECT_COLOUR,
    TEXT_COLOUR,
    WRONG_COLOUR,
    draw_box,
    example_photo,
    photo_cells,
    save_figure,
    show_photo,
    without_formulas,
    wrap_text,
)

COLOURS = ("#3366cc", "#e6872e", "#1a9850", "#c2185b", "#7b52ab", "#8c6d31", "#17a2b8", "#d73027", "#555555", "#a6a600")


def plot_detections(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Examples are those of `Detection.figures()["detections"]`: `image`, a file, and whether its boxes are of
    the photo `as_stored`; `things` with `box`, `label`, `score` and maybe
    `mask`; `truth` with `box` and `label`; `names`, which decide the colours."""
    figure, cells = photo_cells(len(examples), width=3.2, height=3.2)
    for cell, example in zip(cells, examples, strict=False):
        picture = example_photo(example)
        show_photo(cell, picture)
        colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(example["names"])}
        for thing in example["truth"]:
            draw_box(cell, thing["box"], colour="white", style=(0, (3, 3)), width=1.2)
        for thing in example["things"]:
            colour = colours[thing["label"]]
            if "mask" in thing:
                _draw_mask(cell, thing["mask"], colour, (picture.width, picture.height))
            draw_box(cell, thing["box"], colour=colour, style="solid", width=1.8)
            left, top = thing["box"][:2]
            text = without_formulas(f"{thing['label']} {thing['score']:.2f}")
            cell.text(
                max(left, 0), max(top, 0), text, fontsize=7, color="white", va="bottom", clip_on=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
    save_figure(figure, path)


def plot_grounded_phrases(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each photo with its phrase above, the box that was found (green where it is `correct`, else red) and the right ones
    (dashed). Examples are those of `Grounding.figures()["grounded"]`."""
    figure, cells = photo_cells(len(examples), width=2.6, height=2.9)
    for cell, example in zip(cells, examples, strict=False):
        show_photo(cell, example_photo(example))
        cell.set_title(wrap_text(example["phrase"], 30, 2), fontsize=8, color=TEXT_COLOUR)
        for gold in example["gold"]:
            draw_box(cell, gold, colour=TEXT_COLOUR, width=1.4, style=(0, (4, 3)))
        colour = CORRECT_COLOUR if example["correct"] else WRONG_COLOUR
        draw_box(cell, example["box"], colour=colour, width=2.2, style="solid")
    save_figure(figure, path)


def _draw_mask(axes: Axes, code: Mapping[str, Any], colour: str, size: tuple[int, int]) -> None:
    """size: of the picture, width and height."""
    mask = decode_mask(dict(code), height=size[1], width=size[0])
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*colour_to_rgb(colour), 0.45)
    axes.imshow(layer, extent=(0, size[0], size[1], 0), interpolation="nearest")
