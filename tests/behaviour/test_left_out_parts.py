"""An experiment without one of its objectives or tasks: the experiment's settings of it are dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError


def composed(*lines: str, extra: Path | None = None) -> object:
    composer = Composer(conf=conf_folder(), config_name="train", extra=[extra] if extra else [])
    return composer.compose(list(lines))


@pytest.mark.parametrize("kept", [["itc", "mlm"], ["itc", "itm"], ["itc"]])
def test_an_experiment_without_an_objective(kept: list[str]) -> None:
    config = composed("experiment=albef_scenes", f"objective=[{','.join(kept)}]", "task=[retrieval]")
    assert list(config.objectives) == kept  # type: ignore[attr-defined]
    assert list(config.tasks) == ["retrieval"]  # type: ignore[attr-defined]
    assert list(config.tasks.retrieval.itc_weights) == [0, 5, 10, 20, 40, 80, 160], "the experiment's"  # type: ignore[attr-defined]


def test_a_file_that_sets_what_it_does_not_choose_is_still_wrong(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nobjectives: {itm: {weight: 1.0}}\n")
    with pytest.raises(ConfigError, match=r"experiment/mine.yaml: objectives.itm.weight: there is no"):
        composed("experiment=mine", extra=tmp_path)


def test_a_number_in_place_of_a_schedule() -> None:
    config = composed("experiment=albef_scenes", "objectives.itm.weight=0")
    assert config.objectives.itm.weight == 0  # type: ignore[attr-defined]
