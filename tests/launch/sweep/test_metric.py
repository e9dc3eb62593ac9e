"""The figure of a sweep is refused before the first job where the config says that no job has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.sweep.metric import check_direction, check_metric, unmeasured, wrong_metric
from vlp.launch.sweep.pruning import ValidationFigures, check_pruner, intermediate_figure

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    composer = Composer(conf=conf_folder(), config_name="train")
    return resolve_config(composer.compose(["task=[retrieval,zero_shot]"]), Path("run"))


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("val/scenes/retrieval/rsum", None),
        ("test/scenes/zero_shot/top1", None),
        ("test/scenes/ridge_baseline/image_to_text_r1", None),
        ("train_seconds", None),
        ("val/scene/retrieval/rsum", "there is no source scene: did you mean scenes?"),
        ("val/scenes/retreival/rsum", "there is no task retreival: did you mean retrieval?"),
        ("val/scenes/rsum", "results have figures val/<source>/<task>/<metric>"),
        ("train/scenes/itc/loss", "results have figures"),
        ("valid/scenes/retrieval/rsum", "results have figures"),
        ("rsum", "results have val/… and test/… figures, and samples_seen, seconds"),
    ],
)
def test_what_the_config_says_of_a_figure(config: dict[str, Any], metric: str, reason: str | None) -> None:
    found = wrong_metric(metric, config)
    assert (found is None) if reason is None else (found is not None and found.startswith(reason))


def test_nothing_is_validated(config: dict[str, Any]) -> None:
    without = config | {"trainer": config["trainer"] | {"limit_val_batches": 0}}
    assert "limit_val_batches=0" in str(wrong_metric("val/scenes/retrieval/rsum", without))
    check_metric("val/scenes/retrieval/rsum", [without, config])  # one job has it
    assert "no validation took place" in unmeasured("val/scenes/retrieval/rsum", ["test/scenes/retrieval/rsum"])


@pytest.mark.parametrize("swept", ["seed=1,2", "sweep=optuna optimizer.lr=interval(1e-5,1e-3)"])
def test_no_folder_of_a_sweep_that_cannot_have_its_figure(tmp_path: Path, swept: str) -> None:
    lines = [*swept.split(), f"runs={tmp_path / 'runs'}", "sweep.metric=val/scenes/retreival/rsum"]
    command = [sys.executable, "train.py", "-m", *lines]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "sweep.metric=val/scenes/retreival/rsum: no job measures it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_and_its_search_agree_which_way_is_better(config: dict[str, Any]) -> None:
    check_direction(config["monitor"], "maximize", config)
    check_direction("test/scenes/retrieval/rsum", "minimize", config)
    with pytest.raises(ConfigError, match=r"sweep.direction=minimize, but callbacks.checkpoint.mode=max"):
        check_direction(config["monitor"], "minimize", config)


def test_settings_of_pruning(config: dict[str, Any]) -> None:
    assert intermediate_figure("test/scenes/zero_shot/top1", config) == "val/scenes/retrieval/rsum"
    settings = {"pruner": "median", "pruner_startup_trials": 5, "pruner_warmup_validations": 0}
    check_pruner(settings)
    for wrong in ({"pruner": "mdian"}, {"pruner_startup_trials": -1}, {"pruner_warmup_validations": 1.5}):
        with pytest.raises(ConfigError, match=f"sweep.{next(iter(wrong))}="):
            check_pruner(settings | wrong)


def test_validations_are_read_again_where_a_run_began_again_from_a_checkpoint(tmp_path: Path) -> None:
    figures, file = ValidationFigures("val/x"), tmp_path / "metrics.jsonl"
    assert figures.of_run(tmp_path) == []
    file.write_text('{"step": 1, "loss": 2}\n{"step": 2, "val/x": 3}\n{"step": 4, "val/x": 5}\n{"step": 6, "va')
    assert figures.of_run(tmp_path) == [3, 5]
    file.write_text('{"step": 1, "loss": 2}\n{"step": 2, "val/x": 3}\n')
    assert figures.of_run(tmp_path) == [3]
