"""W&B offline, read back from its file: all data of a run, a run that is resumed, and a killed W&B service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from omegaconf import OmegaConf

from tests.wandb_file import WandbRun, read
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

pytestmark = pytest.mark.slow  # real processes, several minutes in total

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data.images.train=48", "data.images.val=8", "data.images.test=8", "data.batch_size=16", "data.num_workers=0",
    "tokenizer.size=400", "model.vision.channels=4", "model.text.width=32", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1", "callbacks=[checkpoint,pictures]", "schedule=constant", "loggers.wandb.project=scenes-test",
    "loggers.wandb.group=tiny", "loggers.wandb.tags=[first,second]", "loggers.wandb.log_model=true",
    "loggers.wandb.mode=offline",
)  # fmt: skip


def make_config(folder: Path, *overrides: str) -> Path:
    config = Composer(conf=conf_folder(), config_name="train").compose(
        [f"data.root={folder.parent / 'scenes'}", *SETTINGS, *overrides]
    )
    folder.mkdir(exist_ok=True)
    return freeze(folder, resolve_config(config, folder), "test")


def start(config: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vlp.training.run", str(config)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, out + err
    return out + err


def runs(folder: Path) -> list[WandbRun]:
    """In the order of their start."""
    return [read(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def figures(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of numbers, without W&B's own columns."""
    rows = [{k: v for k, v in row.items() if not k.startswith("_") and not isinstance(v, dict)} for row in history]
    return [row for row in rows if set(row) - {"trainer/global_step"}]


def logged(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("step", "time")} | {"trainer/global_step": line["step"]}
        for line in lines(folder)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "run"
    finish(start(make_config(folder)))
    return folder


@pytest.fixture(scope="module")
def recorded(finished: Path) -> WandbRun:
    (run,) = runs(finished)
    return run


def test_run_is_named_after_its_folder(finished: Path, recorded: WandbRun) -> None:
    assert recorded.name == f"{finished.parent.name}/run"
    assert (recorded.project, recorded.group, recorded.tags) == ("scenes-test", "tiny", ["first", "second"])
    assert recorded.exit_code == 0


def test_config_is_the_frozen_one(finished: Path, recorded: WandbRun) -> None:
    expected = yaml.safe_load((finished / "config.yaml").read_text())
    assert {key: value for key, value in recorded.config.items() if key != "_wandb"} == expected


def test_history_is_that_of_metrics_jsonl(finished: Path, recorded: WandbRun) -> None:
    rows = figures(recorded.history)
    assert rows == logged(finished)
    assert [row["trainer/global_step"] for row in rows if "train/scenes/itc/loss" in row] == list(range(6))
    assert [row["_step"] for row in recorded.history] == sorted({row["_step"] for row in recorded.history})


def media_files(finished: Path, recorded: WandbRun, kind: str) -> dict[str, Path]:
    """The last file of each key."""
    (files,) = finished.glob("wandb/offline-run-*/files")
    last_files = {}
    for row in recorded.history:
        for key, value in row.items():
            if isinstance(value, dict) and value.get("_type") == kind:
                last_files[key] = files / (value["filenames"][-1] if kind == "images/separated" else value["path"])
    return last_files


def test_pictures_are_those_of_the_run_folder(finished: Path, recorded: WandbRun) -> None:
    logged_images = media_files(finished, recorded, "images/separated")
    on_disk = {path.stem: path for path in (finished / "plots").glob("*.png")}
    assert len(on_disk) >= 7
    assert {key.replace("/", "_"): path.read_bytes() for key, path in logged_images.items()} == {
        name: path.read_bytes() for name, path in on_disk.items()
    }


def test_table_has_the_figures_of_results_json(finished: Path, recorded: WandbRun) -> None:
    path = media_files(finished, recorded, "table-file")["results"]
    table = json.loads(path.read_text())
    results = json.loads((finished / "results.json").read_text())
    assert table["columns"] == ["figure", "value"]
    assert dict(table["data"]) == {name: value for name, value in results.items() if isinstance(value, (int, float))}
    assert "test/scenes/retrieval/rsum" in dict(table["data"])


def test_best_checkpoint_is_an_artifact_on_request(recorded: WandbRun) -> None:
    models = [artifact for artifact in recorded.artifacts if artifact[1] == "model"]
    assert models == [(f"best-{recorded.id}", "model", ["best.ckpt"])]


@pytest.mark.slow
def test_a_resumed_run_continues_the_same_wandb_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(start(make_config(folder, "trainer.max_epochs=1")))
    first_lines = len(lines(folder))
    (first,) = runs(folder)
    time.sleep(1.1)  # W&B names its folders by the second
    finish(start(make_config(folder, f"resume={folder / 'checkpoints' / 'last.ckpt'}", "force=true")))  # one epoch more
    both = runs(folder)
    assert [run.id for run in both] == [first.id, first.id]
    assert [run.name for run in both] == [first.name, first.name]
    # only W&B has the test after the first epoch: metrics.jsonl was truncated to the checkpoint, and the test is repeated later
    first_rows = [row for row in figures(both[0].history) if not any(name.startswith("test/") for name in row)]
    assert first_rows + figures(both[1].history) == logged(folder)
    assert len(logged(folder)) > first_lines
    assert min(row["_step"] for row in both[1].history) > max(row["_step"] for row in both[0].history)
    steps = [row["trainer/global_step"] for run in both for row in run.history if "train/scenes/itc/loss" in row]
    assert steps == list(range(6))


def wait_for_lines(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_training_continues_when_the_wandb_service_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(make_config(folder, "trainer.max_epochs=12", "callbacks=[checkpoint]"))
    wait_for_lines(process, folder, 5)
    processes = psutil.Process(process.pid).children(recursive=True)
    services = [service for service in processes if service.name().startswith("wandb-core")]
    assert services
    for service in services:
        service.kill()
    printed = finish(process)
    assert "W&B is lost" in printed
    assert "Traceback" not in printed
    steps = [line["step"] for line in lines(folder) if "train/scenes/itc/loss" in line]
    assert steps == list(range(36))
    assert "test/scenes/retrieval/rsum" in json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_a_killed_run_keeps_its_metrics(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(make_config(folder, "trainer.max_epochs=1000", "callbacks=[checkpoint]"))
    wait_for_lines(process, folder, 40)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    text = (folder / "metrics.jsonl").read_text()
    # the last line may be incomplete: then it has no end
    complete_lines = [json.loads(line) for line in text.split("\n")[:-1]]
    steps = [line["step"] for line in complete_lines if "train/scenes/itc/loss" in line]
    assert steps == list(range(len(steps)))
    assert len(complete_lines) >= 40


def test_a_config_never_resolves_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B gets the content of the config file."""
    from vlp.training import loggers

    monkeypatch.setenv("MY_SERVICE_TOKEN", "1234567890abcdef")
    (tmp_path / "config.yaml").write_text("a: ${oc.env:MY_SERVICE_TOKEN}\nb: 3\n")
    logger = loggers.wandb(folder=tmp_path, mode="offline")
    assert logger._wandb_init["config"] == {"a": "${oc.env:MY_SERVICE_TOKEN}", "b": 3}
    assert OmegaConf.load(tmp_path / "config.yaml").a == "1234567890abcdef"
