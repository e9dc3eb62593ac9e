"""Pictures of what a detector found: boxes with names and scores, masks, and what is there as dashed boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb as colour_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlp.data.images import open_image, to_rgb
from vlp.data.masks import decode_mask

COLOURS = ("#3366cc", "#e6872e", "#1a9850", "#c2185b", "#7b52ab", "#8c6d31", "#17a2b8", "#d73027", "#555555", "#a6a600")


def plot_detections(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Examples are those of `Detection.figures()["detections"]`: `image`, a file; `things` with `box`, `label`, `score` and maybe
    `mask`; `truth` with `box` and `label`; `names`, which decide the colours."""
    columns = min(4, len(examples))
    rows = math.ceil(len(examples) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for cell in cells:
        cell.set_axis_off()
    for cell, example in zip(cells, examples, strict=False):
        picture = to_rgb(open_image(example["image"]))
        cell.imshow(picture, extent=(0, picture.width, picture.height, 0), interpolation="nearest")
        colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(example["names"])}
        for thing in example["truth"]:
            _draw_box(cell, thing["box"], colour="white", style=(0, (3, 3)), width=1.2)
        for thing in example["things"]:
            colour = colours[thing["label"]]
            if "mask" in thing:
                _draw_mask(cell, thing["mask"], colour, (picture.width, picture.height))
            _draw_box(cell, thing["box"], colour=colour, style="solid", width=1.8)
            left, top = thing["box"][:2]
            text = f"{thing['label']} {thing['score']:.2f}".replace("$", r"\$")
            cell.text(
                max(left, 0), max(top, 0), text, fontsize=7, color="white", va="bottom", clip_on=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        cell.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def _draw_box(axes: Axes, box: Sequence[int | float], *, colour: str, style: Any, width: float) -> None:
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=style, linewidth=width
        )
    )


def _draw_mask(axes: Axes, code: Mapping[str, Any], colour: str, size: tuple[int, int]) -> None:
    """size: of the picture, width and height."""
    mask = decode_mask(dict(code), height=size[1], width=size[0])
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*colour_to_rgb(colour), 0.45)
    axes.imshow(layer, extent=(0, size[0], size[1], 0), interpolation="nearest")
