"""What pictures of photos share: the photo as its annotations see it, cells for several photos, boxes, and the file."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlp.data.images import decode, open_photo, to_rgb

CORRECT_COLOUR, WRONG_COLOUR, TEXT_COLOUR, FRAME_COLOUR = "#1a9850", "#d73027", "#222222", "#8a8a8a"
COLUMNS = 4  # photos in a row, at most


def example_photo(example: Mapping[str, Any]) -> PIL.Image.Image:
    """RGB, of the file `image`: upright, or as it is stored where the example is `as_stored`, as its boxes and classes are."""
    return to_rgb(decode(open_photo(example["image"], as_stored=example.get("as_stored", False))))


def photo_cells(count: int, *, width: float | int, height: float | int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with a cell without axes for each of `count` photos.  width, height: of a cell, in inches."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for cell in cells:
        cell.set_axis_off()
    return figure, list(cells)


def show_photo(axes: Axes, picture: PIL.Image.Image) -> None:
    """So that coordinates are pixels, counted from the corner."""
    axes.imshow(picture, extent=(0, picture.width, picture.height, 0), interpolation="nearest")
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))


def draw_box(axes: Axes, box: Sequence[int | float], *, colour: str, width: float, style: Any) -> None:
    """box: left, top, right, bottom.  style: of matplotlib's lines."""
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width, linestyle=style
        )
    )


def save_figure(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


def without_formulas(text: str) -> str:
    """`$` begins none in it."""
    return text.replace("$", r"\$")


def wrap_text(text: str, width: int, max_lines: int) -> str:
    """Lines of at most `width` characters for matplotlib, with "…" where there are more than `max_lines`."""
    lines = textwrap.wrap(" ".join(text.split()), width) or ["(empty)"]
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], lines[max_lines - 1][: width - 1] + "…"]
    return without_formulas("\n".join(lines))
