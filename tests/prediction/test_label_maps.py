"""`vlp predict … --maps`: the PNGs are what `Predictor.segment` gives, and nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.verbs.test_segment import photo, predictor
from vlp.data.pixel_labels import read_segment_ids
from vlp.data.transforms import EvalTransform
from vlp.prediction.inputs import PredictionInput
from vlp.prediction.label_maps import check_maps, map_lines
from vlp.system.errors import UserError

SIZES = [(90, 40), (40, 90), (64, 64)]


def inputs(folder: Path) -> list[PredictionInput]:
    found = []
    for number, size in enumerate(SIZES):
        photo(*size).save(folder / f"{number}.png")
        found.append(PredictionInput(images=(folder / f"{number}.png",), location="the command"))
    return found


def test_classes_of_pixels(tmp_path: Path) -> None:
    asked = predictor("segmentation", EvalTransform(image_size=32, mode="squash"))
    items = inputs(tmp_path)
    lines = [json.loads(line) for line in map_lines(asked, "segmentation", items, tmp_path / "maps", batch_size=2)]
    for line, item, found in zip(lines, items, asked.segment([i.images[0] for i in items]), strict=True):
        assert line == {
            "image": str(item.images[0]),
            "map": str(tmp_path / "maps" / item.images[0].name),
            "names": ["rest", "red"],
        }
        assert np.array_equal(np.asarray(PIL.Image.open(line["map"])), found["classes"])


def test_segments(tmp_path: Path) -> None:
    asked = predictor("panoptic", EvalTransform(image_size=32, mode="squash"))
    items = inputs(tmp_path)
    lines = [json.loads(line) for line in map_lines(asked, "panoptic", items, tmp_path / "maps")]
    for line, found in zip(lines, asked.segment([i.images[0] for i in items]), strict=True):
        assert line["segments"] == found["segments"]
        assert np.array_equal(read_segment_ids(Path(line["map"])), found["ids"])


def test_what_would_be_lost_or_has_no_pixels_is_refused(tmp_path: Path) -> None:
    items = inputs(tmp_path)
    with pytest.raises(UserError, match="predict the class of every pixel; vqa does not"):
        check_maps(tmp_path / "maps", "vqa", items)
    with pytest.raises(UserError, match=r"0\.png would be replaced by its map"):
        check_maps(tmp_path, "segmentation", items)
    with pytest.raises(UserError, match="is a file; name a folder"):
        check_maps(items[0].images[0], "segmentation", items)
    (tmp_path / "other").mkdir()
    other = PredictionInput(images=(tmp_path / "other" / "0.png",), location="the command")
    with pytest.raises(UserError, match=r"--maps: .* would both be 0\.png"):
        check_maps(tmp_path / "maps", "segmentation", [*items, other])
    assert not (tmp_path / "maps").exists()
