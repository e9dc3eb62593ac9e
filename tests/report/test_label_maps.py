from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from vlp.data.pixel_labels import classes_of_segments
from vlp.report.label_maps import class_colour, overlay, plain_example, plot_label_maps
from vlp.structures import Segment
from vlp.training.callbacks.pictures import draw_pictures
from vlp.training.loggers import wandb_masks

TRUTH = np.array([[0, 0, 255, 1], [0, 0, 255, 1]], dtype=np.uint8)
PREDICTED = np.array([[0, 0, 0, 1], [0, 0, 1, 1]], dtype=np.uint8)


def figures(folder: Path) -> dict[str, Any]:
    PIL.Image.new("RGB", (4, 2), (10, 20, 30)).save(folder / "photo.png")
    example = {"image": str(folder / "photo.png"), "as_stored": True, "truth": TRUTH, "predicted": PREDICTED}
    return {"names": ("sky", "grass"), "examples": [example]}


def panoptic(folder: Path) -> dict[str, Any]:
    figures(folder)
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 0]])
    segments = [Segment(1, 1), Segment(2, 0)]
    example = {
        "image": str(folder / "photo.png"), "as_stored": True, "truth": ids, "true": segments, "predicted": ids,
        "segments": segments[:1],
    }  # fmt: skip
    return {"names": ("sky", "grass"), "examples": [example]}


def test_a_class_has_its_colour_and_void_stays_as_it_is() -> None:
    photo = np.full((2, 4, 3), 100, dtype=np.uint8)
    shown = overlay(photo, TRUTH)
    np.testing.assert_allclose(shown[0, 2], 100 / 255)
    np.testing.assert_allclose(shown[1, 3], 0.4 * 100 / 255 + 0.6 * np.array(class_colour(1)))
    assert len({class_colour(index) for index in range(150)}) == 150


def test_segments_have_the_colours_of_their_classes_and_white_borders(tmp_path: Path) -> None:
    example = plain_example(panoptic(tmp_path)["examples"][0])
    assert example["truth"].tolist() == [[1, 1, 0, 0], [1, 1, 0, 255]]
    assert example["predicted"].tolist() == classes_of_segments(example["ids"], [Segment(1, 1)]).tolist()
    shown = overlay(np.zeros((2, 4, 3), dtype=np.uint8), example["truth"], example["true_ids"])
    assert shown[0, 2].tolist() == [1, 1, 1]
    assert shown[0, 1].tolist() != [1, 1, 1]


def test_pictures_of_both_tasks_are_drawn(tmp_path: Path) -> None:
    drawn = draw_pictures({"label_maps": figures(tmp_path), "panoptic": panoptic(tmp_path)}, tmp_path / "val_x")
    assert set(drawn) == {"label_maps", "panoptic"}
    for path in drawn.values():
        assert PIL.Image.open(path).size[0] > 500
    plot_label_maps(figures(tmp_path), tmp_path / "alone.png")
    assert (tmp_path / "alone.png").stat().st_size > 1000


def test_wandb_gets_masks_of_its_own(tmp_path: Path) -> None:
    (image,) = wandb_masks(figures(tmp_path))
    masks = image._masks
    assert set(masks) == {"truth", "predicted"}
