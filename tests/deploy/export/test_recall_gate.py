"""The data that `--gate` and `--calibrate` name, on drawn scenes as they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.deploy.export import tiny
from vlp.deploy.export.export import _calibration
from vlp.deploy.export.readme import recall_sentence
from vlp.deploy.export.recall_gate import read_samples
from vlp.system.errors import UserError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root: Path = tmp_path_factory.mktemp("scenes")
    return ["data=scenes", f"data.root={root}", "data.images={train:70,val:2,test:24}"]


def test_test_photos_with_captions_are_ranked(scenes: list[str]) -> None:
    samples = read_samples(scenes)
    assert len(samples) == 24
    assert all(sample.captions for sample in samples)


def test_too_few_photos_are_refused(tmp_path: Path) -> None:
    few = ["data=scenes", f"data.root={tmp_path}", "data.images={train:2,val:2,test:4}"]
    with pytest.raises(UserError, match="has 4 test images with captions, too few to rank"):
        read_samples(few)


def test_calibration_reads_the_first_training_photos(scenes: list[str]) -> None:
    predictor = tiny.build("clip")
    found = [inputs["pixels"] for inputs in _calibration(predictor, scenes)]
    assert len(found) == 64
    assert {(pixels.dtype, pixels.shape) for pixels in found} == {(np.dtype("uint8"), (1, 3, tiny.SIZE, tiny.SIZE))}


def test_recall_is_said_in_one_sentence() -> None:
    recall = {"images": 24, "captions": 120, "model": [15.4, 6.52], "artifact": [15.6, 6.4799999], "overlap": 0.971}
    assert recall_sentence(recall) == (
        "R@1 on 24 photos and 120 captions, image to text / text to image: 15.4 / 6.5 of the model, 15.6 / 6.5 of the artifact; "
        "97.1 % of the ten best photos of a caption are the same."
    )
