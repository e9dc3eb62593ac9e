from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vlp.launch.config.choices import options
from vlp.system.errors import UserError
from vlp.tasks.detection import Detection
from vlp.training.evaluate import _stored_settings

STANDARD: dict[str, Any] = yaml.safe_load(Path(options("task")["detection"]).read_text(encoding="utf-8"))
OWN = {"names": "texts", "class_names": ["disc"], "templates": ["a red {}"], "head": {"up": 2}}


def settings(**changed: Any) -> dict[str, Any]:
    node = STANDARD | changed
    return _stored_settings("detection", node, OWN, Detection)


def test_what_is_left_as_its_yaml_has_it_is_the_checkpoints() -> None:
    assert settings() == OWN
    assert settings(names="texts", class_names=["disc"]) == OWN


def test_prompts_may_be_others() -> None:
    assert settings(templates=["the {}"]) == {key: value for key, value in OWN.items() if key != "templates"}


@pytest.mark.parametrize("changed", [{"class_names": ["hoop"]}, {"head": {"up": 1}}])
def test_another_head_than_the_checkpoints_is_refused(changed: dict[str, Any]) -> None:
    key = next(iter(changed))
    with pytest.raises(
        UserError, match=rf"tasks\.detection\.{key}=.*: the checkpoint's head was made with .*leave it out"
    ):
        settings(**changed)
