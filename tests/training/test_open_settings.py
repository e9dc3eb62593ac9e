from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torchvision.transforms.v2.functional import pil_to_tensor as to_tensor

from tests.towers import toy_model
from vlp.data.datamodule import DataModule
from vlp.models.vision.small_cnn import SmallCnn
from vlp.models.vlm import VisionLanguageModel
from vlp.system.errors import UserError
from vlp.training.open_settings import fill_open_settings


class _Data(DataModule):
    """Knows its classes only after `setup`, as data sets do."""

    found: tuple[str, ...] | None = ("circle", "ring")

    def __init__(self) -> None:
        super().__init__(name="shapes", root=Path("."), transform=dict.fromkeys(("train", "eval"), to_tensor))

    def setup(self, stage: str | None = None) -> None:
        self.class_names = self.found


class _Unnamed(_Data):
    found = None


def test_what_is_null_comes_from_the_model_and_the_data() -> None:
    model = VisionLanguageModel(vision=SmallCnn(image_size=16, channels=2), projection=toy_model().projection)
    nodes: dict[str, Any] = {
        "detection": {
            "states_width": None, "embed_width": None, "levels": ["stem.0"], "level_widths": None, "class_names": None,
        },
        "chosen": {"states_width": 3, "class_names": ["cat"]},
        "removed": None,
    }  # fmt: skip
    fill_open_settings(nodes, model, _Data())
    assert nodes["detection"] == {
        "states_width": 16, "embed_width": 5, "levels": ["stem.0"], "level_widths": [2], "class_names": ["circle", "ring"],
    }  # fmt: skip
    assert nodes["chosen"] == {"states_width": 3, "class_names": ["cat"]}


def test_data_without_classes() -> None:
    with pytest.raises(
        UserError, match=r"detection has no classes: shapes has no class_names; list them in tasks\.det"
    ):
        fill_open_settings({"detection": {"class_names": None}}, toy_model(), _Unnamed())
