"""W&B's environment variables: which win, which lose, and to whom an id belongs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import read_frozen_config
from vlp.launch.runs.wandb_environment import claim_run_id, separate_job, take_tags, wandb_mode

ROOT = Path(__file__).parents[3]
WITHOUT_KEY = {"WANDB_API_KEY": "", "NETRC": "/nowhere", "HOME": "/nowhere"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in WITHOUT_KEY.items():
        monkeypatch.setenv(name, value)


def settings(*lines: str) -> dict[str, Any]:
    container = resolve_config(Composer(conf=conf_folder(), config_name="train").compose(list(lines)), Path("run"))
    take_tags(container)
    node: dict[str, Any] = container["loggers"]["wandb"]
    return node


@pytest.mark.parametrize(
    ("variable", "key", "value", "default"),
    [
        ("WANDB_PROJECT", "project", "mine", "vlp"),
        ("WANDB_ENTITY", "entity", "team", None),
        ("WANDB_RUN_GROUP", "group", "1e5", None),
        ("WANDB_NAME", "name", "first", None),
        ("WANDB_TAGS", "tags", "a, 007", []),
    ],
)
def test_a_variable_wins_over_yaml_and_loses_to_an_override(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: str, value: str, default: Any
) -> None:
    assert settings()[key] == default
    monkeypatch.setenv(variable, value)
    assert settings()[key] == (["a", "007"] if key == "tags" else value)
    typed = "[typed]" if key == "tags" else "typed"
    assert settings(f"loggers.wandb.{key}={typed}")[key] == (["typed"] if key == "tags" else "typed")


def test_an_id_belongs_to_the_first_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")

    def claimed(folder: Path, *lines: str) -> str | None:
        folder.mkdir()
        container = {"runs": str(tmp_path), "loggers": {"wandb": settings(*lines)}}
        claim_run_id(container, folder)
        identifier: str | None = container["loggers"]["wandb"]["id"]  # type: ignore[index]
        return identifier

    assert claimed(tmp_path / "a") == "abc123"
    assert claimed(tmp_path / "b") is None
    assert f"WANDB_RUN_ID=abc123 belongs to {tmp_path / 'a'}" in capsys.readouterr().err
    assert claimed(tmp_path / "c", "loggers.wandb.id=mine") == "mine"
    (tmp_path / "a").rmdir()
    assert claimed(tmp_path / "d") == "abc123"


def test_jobs_of_a_sweep_share_no_id(tmp_path: Path) -> None:
    variables = {"WANDB_RUN_ID": "abc123", "WANDB_NAME": "both", "WANDB_MODE": "offline", "WANDB_RUN_GROUP": "mine"}
    (tmp_path / "start.py").write_text(
        "import sys\nfrom vlp.launch import process\nprocess.MODULES.update(train='stand_in')\n"
        "from vlp.cli import run_hydra_command\nsys.exit(run_hydra_command('train', sys.argv[1:]))\n"
    )
    (tmp_path / "stand_in.py").write_text("")
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "start.py", "-m", "seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/*/sweep.json")
    configs = [
        read_frozen_config(tmp_path / job["folder"] / "config.yaml") for job in json.loads(file.read_text())["jobs"]
    ]
    assert [config.loggers.wandb.id for config in configs] == [None, None]
    assert [config.loggers.wandb.name for config in configs] == ["both/0_seed=1", "both/1_seed=2"]
    assert [config.loggers.wandb.group for config in configs] == ["mine", "mine"]


def test_no_common_id_for_the_jobs_of_a_sweep() -> None:
    with pytest.raises(ConfigError, match=r"loggers.wandb.id=x: each job of a sweep is a W&B run of its own"):
        separate_job({"loggers": {"wandb": settings("loggers.wandb.id=x")}}, Path("0_seed=1"))


def test_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_mode(None, None) == "offline"
    assert wandb_mode(None, "key") == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert wandb_mode(None, "key") == "offline"
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert (wandb_mode(None, None), wandb_mode("offline", None)) == ("disabled", "offline")


@pytest.mark.parametrize(
    ("variables", "line", "message"),
    [
        ({"WANDB_MODE": "online"}, "seed=0", "WANDB_MODE=online, and there is no key: run `wandb login`"),
        ({}, "loggers.wandb.mode=online", "loggers.wandb.mode=online, and there is no key"),
        ({"WANDB_MODE": "of"}, "seed=0", "WANDB_MODE=of: expected online, offline, disabled"),
        ({"WANDB_MODE": "online"}, "-m seed=1,2", "WANDB_MODE=online, and there is no key"),
    ],
)
def test_what_cannot_begin_leaves_no_folder(tmp_path: Path, variables: dict[str, str], line: str, message: str) -> None:
    command = [sys.executable, "train.py", f"runs={tmp_path / 'runs'}", *line.split()]
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_id_reaches_wandb_and_a_resumed_run_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlp.training.loggers import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "other")  # of the shell, not of this folder
    logger = wandb(folder=tmp_path, project="", id="abc123", name="first", tags=None)
    logger.log_metrics({"x": 1.0}, step=0)
    run = logger.experiment
    assert (run.id, run.project, run.name) == ("abc123", "vlp", "first")
    run.finish()
    assert wandb(folder=tmp_path)._id == "abc123"
    assert "WANDB_RUN_ID" not in os.environ
