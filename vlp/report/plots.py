"""Pictures of a run: loss and label curves, a similarity matrix, retrieved images and captions, correct (green) and wrong (red).

Functions take plain data and the path of the PNG. Each draws on a new figure without pyplot, so they need no display and
figures do not accumulate in a long run. `$` in a caption does not start a formula.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlp.data.images import open_image, to_rgb
from vlp.report.drawing import (
    CORRECT_COLOUR,
    FRAME_COLOUR,
    TEXT_COLOUR,
    WRONG_COLOUR,
    save_figure,
    without_formulas,
    wrap_text,
)
from vlp.system.errors import UserError

COLOURS = ("#3366cc", "#e6872e", "#1a9850", "#c2185b", "#7b52ab", "#8c6d31", "#17a2b8", "#555555")


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Every finite figure of a metrics.jsonl by name, as (step, value); an incomplete last line (a crash) is ignored."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    lines = metrics.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{metrics}, line {number}: not JSON ({error.msg}); delete the line") from error
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                curves[name].append((int(row["step"]), float(value)))
    return dict(curves)


def plot_loss_curves(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """On the left the curves with `loss` in their name; on the right recalls and accuracies, in percent."""
    losses = {name: points for name, points in curves.items() if "loss" in name}
    suffixes = (
        "_r1",
        "_r5",
        "_r10",
        "/top1",
        "/top5",
        "/accuracy",
        "/mean_average_precision",
        "/ap",
        "/ap50",
        "/mask_ap",
        "/miou",
        "/pixel_accuracy",
        "/pq",
    )
    percents = {name: points for name, points in curves.items() if name.endswith(suffixes)}
    panels = [(title, group) for title, group in (("loss", losses), ("percent", percents)) if group]
    if not panels:
        raise UserError(f"no curve to draw in {path}: no name contains 'loss' or is that of a recall or an accuracy")
    figure = Figure(figsize=(6.4 * len(panels), 4), layout="constrained")
    for axes, (title, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (name, points) in enumerate(sorted(group.items())):
            steps, values = zip(*points, strict=True)
            colour = COLOURS[index % len(COLOURS)]
            many = len(points) > 60
            axes.plot(steps, values, color=colour, alpha=0.3 if many else 1, lw=1.6, marker="" if many else "o", ms=3,
                      label=None if many else without_formulas(name))  # fmt: skip
            if many:  # the running mean shows the trend, the pale line the noise
                axes.plot(steps, _running_mean(values), color=colour, lw=1.8, label=without_formulas(name))
        axes.set(xlabel="step", title=title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def plot_similarity_matrix(
    images: Sequence[Path | str], captions: Sequence[str], scores: Sequence[Sequence[float]], path: Path
) -> None:
    """Cosine of each caption (rows) with each image (columns); scores[image][caption], true pairs on the diagonal."""
    rows, columns = len(captions), len(images)
    figure = Figure(figsize=(4.2 + 0.8 * columns, 1.4 + 0.8 * rows))
    left, top = 3.6 / (4.2 + 0.8 * columns), 1 - 1.0 / (1.4 + 0.8 * rows)
    axes = figure.add_axes((left, 0.02, 0.98 - left, top - 0.02))
    table = [[float(scores[column][row]) for column in range(columns)] for row in range(rows)]
    low, high = min(map(min, table)), max(map(max, table))
    axes.imshow(table, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    for row in range(rows):
        for column in range(columns):
            value = table[row][column]
            colour = "black" if value > low + 0.6 * (high - low) else "white"
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.set_yticks(range(rows), [wrap_text(caption, 40, 2) for caption in captions], fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    box = axes.get_position()
    for column, image in enumerate(images):
        width = box.width / columns
        above = figure.add_axes((box.x0 + column * width + 0.04 * width, box.y1 + 0.01, 0.92 * width, 0.97 - box.y1))
        _draw_image(above, image)
    save_figure(figure, path)


def plot_retrieved_captions(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each query image with its best captions. Examples are those of `Retrieval.figures()["image_to_text"]`."""
    figure = Figure(figsize=(9, 1.9 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), 2, squeeze=False, width_ratios=(1, 4))
    for (left, right), example in zip(grid, examples, strict=True):
        _draw_image(left, example["query"])
        _draw_frame(left, FRAME_COLOUR, 1.0)
        right.set_axis_off()
        lines = len(example["results"])
        for line, (caption, score, correct) in enumerate(example["results"]):
            height = 1 - (line + 0.5) / lines
            colour = CORRECT_COLOUR if correct else WRONG_COLOUR
            mark = "✓" if correct else "✗"
            right.text(0, height, f"{mark}  {score:.2f}", color=colour, va="center", fontsize=9, weight="bold",
                       transform=right.transAxes)  # fmt: skip
            right.text(0.12, height, wrap_text(caption, 84, 2), color=colour, va="center", fontsize=8.5,
                       linespacing=0.95, transform=right.transAxes)  # fmt: skip
    save_figure(figure, path)


def plot_retrieved_images(examples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each query caption with its best images. Examples are those of `Retrieval.figures()["text_to_image"]`."""
    columns = max(len(example["results"]) for example in examples)
    figure = Figure(figsize=(3 + 1.5 * columns, 1.8 * len(examples)), layout="constrained")
    grid = figure.subplots(len(examples), columns + 1, squeeze=False, width_ratios=(2, *[1] * columns))
    for cells, example in zip(grid, examples, strict=True):
        for cell in cells:
            cell.set_axis_off()
        cells[0].text(0, 0.5, wrap_text(example["query"], 34, 5), va="center", fontsize=9, color=TEXT_COLOUR,
                      transform=cells[0].transAxes)  # fmt: skip
        for cell, (image, score, correct) in zip(cells[1:], example["results"], strict=False):
            colour = CORRECT_COLOUR if correct else WRONG_COLOUR
            _draw_image(cell, image)
            _draw_frame(cell, colour, 4.0)
            cell.set_title(f"{score:.2f}", fontsize=8, color=colour, pad=3)
    save_figure(figure, path)


def plot_label_curves(curves: Mapping[str, Any], path: Path) -> None:
    """Figures against labels a class (left) and against shares of the training images (right), with 95 % intervals over draws;
    the dashed line is zero-shot. Curves are those of `LabelEfficiency.figures()["label_curves"]`."""
    panels = [
        (title, prefix)
        for title, prefix in (("labels of each class", "shots_"), ("labelled images", "percent_"))
        if any(name.startswith(prefix) for points in curves["methods"].values() for name in points)
    ]
    if not panels:
        raise UserError(f"no point to draw in {path}: no subset of the training images was measured")
    figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained")
    for axes, (title, prefix) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (method, points) in enumerate(curves["methods"].items()):
            rows = [row for name, row in points.items() if name.startswith(prefix)]
            if not rows:  # trained runs have no shots
                continue
            labels, means = [row[0] for row in rows], [row[1] for row in rows]
            halves = [row[2] or 0.0 for row in rows]
            axes.errorbar(labels, means, halves, color=COLOURS[index % len(COLOURS)], marker="o", ms=4, lw=1.8,
                          capsize=3, label=without_formulas(method.replace("_", " ")))  # fmt: skip
        if curves["zero_shot"] is not None:
            axes.axhline(curves["zero_shot"], color=FRAME_COLOUR, ls="--", lw=1.5, label="zero-shot (no label)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel=title, ylabel=f"{curves['figure'].replace('_', ' ')}, percent")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_mix_curves(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Figures of weights between two checkpoints against the share of the second.  curves: by name, points of (share, figure)."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, points) in enumerate(curves.items()):
        shares, values = zip(*points, strict=True)
        axes.plot(
            shares, values, color=COLOURS[index % len(COLOURS)], marker="o", ms=4, lw=1.8, label=without_formulas(name)
        )
    axes.set(xlabel="share of the second checkpoint's weights", ylabel="percent")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Over a thirtieth of the values before and after each."""
    window = max(1, len(values) // 30)
    return [fmean(values[max(0, i - window) : i + window + 1]) for i in range(len(values))]


def _draw_image(axes: Axes, image: Path | str) -> None:
    picture = to_rgb(open_image(image, decode_side=256))  # a file, or a member of a tar as "archive.tar!member"
    picture.thumbnail((256, 256))
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_frame(axes: Axes, colour: str, width: float) -> None:
    axes.set_axis_on()
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)
