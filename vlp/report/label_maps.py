"""Pictures of classes of pixels: a photo, what is true of it, and what was predicted, with the classes' colours; borders between
segments in white."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vlp.data.pixel_labels import classes_of_segments
from vlp.data.view import VOID_CLASS
from vlp.report.drawing import example_photo, save_figure, without_formulas

MAX_LEGEND = 24  # classes named in a picture, those with most pixels


def class_colour(index: int) -> tuple[float, float, float]:
    """Of many classes, neighbours clearly different: hues a golden angle from each other."""
    return colorsys.hsv_to_rgb(0.61803 * index % 1, 0.55 + 0.4 * (index % 2), 0.95 - 0.3 * (index % 3 == 2))


def overlay(
    photo: UInt8[np.ndarray, "h w 3"], classes: Int[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"], segments: Any = None
) -> Float[np.ndarray, "h w 3"]:
    """classes: 255 is left as it is.  segments: ids of pixels, whose borders are drawn."""
    table = np.array([class_colour(index) for index in range(256)])
    shown = photo / 255.0
    known = classes != VOID_CLASS
    shown[known] = 0.4 * shown[known] + 0.6 * table[classes[known]]
    if segments is not None:
        border = np.zeros(classes.shape, dtype=bool)
        border[1:] |= segments[1:] != segments[:-1]
        border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
        shown[border] = 1.0
    return shown


def plain_example(example: Mapping[str, Any]) -> dict[str, Any]:
    """Class maps under `truth` and `predicted`, and of a panoptic one the ids under `true_ids` and `ids`."""
    if "segments" not in example:
        return {**example, "true_ids": None, "ids": None}
    return {
        "image": example["image"],
        "as_stored": example["as_stored"],
        "truth": classes_of_segments(example["truth"], example["true"]),
        "predicted": classes_of_segments(example["predicted"], example["segments"]),
        "true_ids": example["truth"],
        "ids": example["predicted"],
    }


def plot_label_maps(figures: Mapping[str, Any], path: Path) -> None:
    """figures: `names` and `examples`, see `Segmentation.figures()["label_maps"]` and `Panoptic.figures()["panoptic"]`."""
    examples = [plain_example(example) for example in figures["examples"]]
    figure = Figure(figsize=(9, 3 * len(examples) + 0.6), layout="constrained")
    cells = figure.subplots(len(examples), 3, squeeze=False)
    counts = np.zeros(256, dtype=np.int64)
    for row, example in zip(cells, examples, strict=True):
        photo = np.asarray(example_photo(example))
        shown = [
            photo, overlay(photo, example["truth"], example["true_ids"]),
            overlay(photo, example["predicted"], example["ids"]),
        ]  # fmt: skip
        for cell, picture in zip(row, shown, strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set_axis_off()
        for kind in ("truth", "predicted"):
            counts += np.bincount(example[kind].ravel(), minlength=256)
    for cell, title in zip(cells[0], ("photo", "truth", "predicted"), strict=True):
        cell.set_title(title, fontsize=9)
    names = figures["names"]
    most = [i for i in np.argsort(-counts[: len(names)], kind="stable")[:MAX_LEGEND].tolist() if counts[i]]
    patches = [Patch(color=class_colour(index), label=without_formulas(names[index])) for index in sorted(most)]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    save_figure(figure, path)
