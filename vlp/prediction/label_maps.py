"""`vlp predict … segmentation|panoptic --maps FOLDER`: a PNG of each photo at its own size, in the forms of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlp.models.dense.label_files import ResultFolder, write_label_map
from vlp.models.dense.panoptic import write_panoptic_png
from vlp.prediction.inputs import PredictionInput
from vlp.predictor import Predictor
from vlp.system.errors import UserError
from vlp.verbs.segment import TASKS


def check_maps(folder: Path, task: str, inputs: Sequence[PredictionInput]) -> None:
    """Raises UserError for a task without a class of each pixel, an image of a pair, and two photos whose PNGs have one name."""
    if task not in TASKS:
        raise UserError(f"--maps is for {' and '.join(TASKS)}, which predict the class of every pixel; {task} does not")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--maps {folder}: is a file; name a folder")
    paths = ResultFolder(folder, option="--maps")
    for item in inputs:
        if len(item.images) != 1:
            raise UserError(f"{item.location}: {task} is about one image")
        if paths.path(item.images[0]).resolve() == item.images[0].resolve():
            raise UserError(f"--maps {folder}: {item.images[0]} would be replaced by its map; name another folder")


def map_lines(
    predictor: Predictor,
    task: str,
    inputs: Sequence[PredictionInput],
    folder: Path,
    *,
    labels: Sequence[str] = (),
    batch_size: int = 32,
) -> Iterator[str]:
    """A JSON object for each photo: image, map (its PNG), and what the PNG's values mean. Of segmentation a grey PNG of numbers of
    `names`; of panoptic COCO's, with red + 256 · green + 256² · blue = the id of one of `segments` (0 = none)."""
    paths = ResultFolder(folder, option="--maps")
    for start in range(0, len(inputs), batch_size):
        images = [item.images[0] for item in inputs[start : start + batch_size]]
        for image, found in zip(images, predictor.segment(images, labels or None, task=task), strict=True):
            path = paths.path(image)
            line: dict[str, Any] = {"image": str(image), "map": str(path)}
            if "segments" in found:
                write_panoptic_png(path, found["ids"])
                line["segments"] = found["segments"]
            else:
                classes = torch.from_numpy(found["classes"].astype(np.int64))
                write_label_map(path, classes, range(len(found["names"])))
                line["names"] = list(found["names"])
            yield json.dumps(line, ensure_ascii=False) + "\n"
