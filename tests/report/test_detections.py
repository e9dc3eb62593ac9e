from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from vlp.metrics.coco import encode_mask
from vlp.report.detections import plot_detections, plot_grounded_phrases
from vlp.report.drawing import example_photo
from vlp.training.loggers import wandb_image


def _example(path: Path, *, mask: bool) -> dict[str, Any]:
    PIL.Image.new("RGB", (80, 50), "black").save(path)
    thing: dict[str, Any] = {"box": [-5.0, 5.0, 30.0, 20.0], "label": "ring $x$", "score": 0.9}
    if mask:
        pixels = np.zeros((50, 80), dtype=bool)
        pixels[5:20, :30] = True
        thing |= {"mask": encode_mask(pixels)}
    truth = [{"box": [0, 5, 30, 20], "label": "ring $x$"}]
    return {"image": str(path), "things": [thing], "truth": truth, "names": ["circle", "ring $x$"]}


def test_boxes_names_and_masks_are_drawn(tmp_path: Path) -> None:
    """The class's colour is that of its place among the names; a mask tints what it covers."""
    pictures = {}
    for mask in (False, True):
        example = _example(tmp_path / "a.png", mask=mask)
        plot_detections([example] * 5, tmp_path / "plots/out.png")
        pictures[mask] = np.asarray(PIL.Image.open(tmp_path / "plots/out.png").convert("RGB")).astype(int)
    orange = np.abs(pictures[False] - np.array([0xE6, 0x87, 0x2E])).sum(-1) < 20
    assert orange.sum() > 500
    changed = (np.abs(pictures[True] - pictures[False]).sum(-1) > 30).sum()
    assert changed > 5 * 1000


def test_images_without_things(tmp_path: Path) -> None:
    example = _example(tmp_path / "a.png", mask=False) | {"things": [], "truth": []}
    plot_detections([example], tmp_path / "out.png")
    assert PIL.Image.open(tmp_path / "out.png").width > 100


def colours(path: Path) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.asarray(PIL.Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


def test_grounded_phrases_are_green_where_right_and_red_where_wrong(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    PIL.Image.new("RGB", (30, 40)).save(photo)
    green, red = (0x1A, 0x98, 0x50), (0xD7, 0x30, 0x27)
    example = {
        "image": str(photo),
        "phrase": "costs $5 and \\alpha <b> & " + "many words " * 30,
        "box": [2, 3, 20, 30],
        "gold": [[4, 5, 28, 38], [1, 1, 5, 5]],
    }
    for count in (1, 5):
        plot_grounded_phrases([example | {"correct": True}] * count, tmp_path / "right.png")
        assert green in colours(tmp_path / "right.png")
        assert red not in colours(tmp_path / "right.png")
    plot_grounded_phrases([example | {"correct": False}], tmp_path / "wrong.png")
    assert red in colours(tmp_path / "wrong.png")
    assert green not in colours(tmp_path / "wrong.png")


@pytest.mark.parametrize("as_stored", [False, True])
def test_photos_that_are_turned_by_exif_are_drawn_as_their_boxes_see_them(as_stored: bool, tmp_path: Path) -> None:
    """The left half of the stored photo is white, and orientation 6 shows it as the upper half. A mask of the left half of what
    the annotations see covers white pixels where they are of the stored photo, and white and black ones else."""
    stored = PIL.Image.new("RGB", (60, 60), "black")
    stored.paste("white", (0, 0, 30, 60))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    example = {"image": str(tmp_path / "turned.png"), "as_stored": as_stored}
    left = np.asarray(example_photo(example))[:, :30]
    assert (left == 255).all() == as_stored
    assert left.any()
    boxes = {"things": [{"box": [0, 0, 30, 60], "label": "ring", "score": 0.9}], "truth": [], "names": ["ring"]}
    image = wandb_image(example | boxes).image
    assert (np.asarray(image)[:, :30] == 255).all() == as_stored
