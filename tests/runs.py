"""Training runs in processes of their own, for tests that kill, signal and resume them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.warm_python import warm_python
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.resume import apply_overrides_to_run
from vlp.launch.runs.folder import freeze

ROOT = Path(__file__).resolve().parents[1]
SMALL_CLIP = (
    "data.images.train=40", "data.images.val=6", "data.images.test=6", "data.batch_size=8", "data.eval_batch_size=2",
    "data.num_workers=0", "tokenizer.size=300", "model.vision.channels=2", "model.text.width=16", "model.text.layers=1",
    "model.projection.width=8", "task=[retrieval]", "callbacks=[checkpoint,progress]", "logger=none", "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=1",
)  # fmt: skip
TWO_PROCESSES = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")


def run_environment(**more: str) -> dict[str, str]:
    """This process's environment without the ranks of an outer run, with one thread and the checkout's vlp."""
    own = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"} | more


def make_run_folder(folder: Path, *overrides: str, data: Path) -> Path:
    """Creates a run folder with its config.yaml; returns it.  data: folder of the scenes."""
    folder.mkdir(parents=True)
    config = Composer(conf=conf_folder(), config_name="train").compose([f"data.root={data}", *overrides])
    freeze(folder, resolve_config(config, folder), "test")
    return folder


def train_here(folder: Path) -> dict[str, Any]:
    """The run of a folder in this process; returns its results."""
    from vlp.training.run import run

    try:
        return run(folder / "config.yaml")
    finally:
        torch.use_deterministic_algorithms(False)


def resume_here(folder: Path, *overrides: str) -> dict[str, Any]:
    """`train.py resume=FOLDER OVERRIDES` in this process."""
    apply_overrides_to_run(folder, Composer(conf=conf_folder(), config_name="train"), list(overrides))
    return train_here(folder)


def start_run(folder: Path, *, program: str = sys.executable, **more: str) -> subprocess.Popen[str]:
    command = [program, "-m", "vlp.training.run", str(folder / "config.yaml")]
    return subprocess.Popen(
        command, cwd=ROOT, env=run_environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish_run(folder: Path, *, code: int = 0, timeout: float = 120, **more: str) -> str:
    # what is killed, or has threads of its own, starts as users start it
    program = sys.executable if more else warm_python()
    process = start_run(folder, program=program, **more)
    printed = process.communicate(timeout=timeout)[0]
    assert process.returncode == code, (process.returncode, printed[-3000:])
    return printed


def logged_lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time" and not _is_duration(key)} for row in records]


def load_checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, map_location="cpu", weights_only=True)


def train_in_float64(folder: Path) -> dict[str, torch.Tensor]:
    """Trains a run folder by tests/training/double.py; its last state."""
    command = [warm_python(), "tests/training/double.py", str(folder / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=run_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_checkpoint(folder)["state_dict"]


def assert_same_training(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """But for the last digits of float64, in which the order of sums differs."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-7, atol=1e-9, msg=name)


def final_figures(folder: Path) -> dict[str, Any]:
    """results.json without values that depend on the clock or on the commit."""
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if not _is_duration(key) and key != "commit"}


def _is_duration(name: str) -> bool:
    return name.endswith(("seconds", "per_second"))


def assert_equal(first: Any, second: Any, path: str = "") -> None:
    """All tensors, numbers and keys of two nested containers are equal, bit by bit; NaN equals NaN."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, path
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, msg=path)
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_equal(a, b, f"{path}[{index}]")
    else:
        assert first == second or (first != first and second != second), (path, first, second)


def assert_runs_equal(uninterrupted: Path, killed: Path) -> None:
    """Losses, figures, weights, optimizer state, averages and results are equal, bit by bit."""
    assert_equal(logged_lines(uninterrupted), logged_lines(killed), "metrics.jsonl")
    assert_equal(final_figures(uninterrupted), final_figures(killed), "results.json")
    for name in ("last.ckpt", "best.ckpt"):
        first, second = load_checkpoint(uninterrupted, name), load_checkpoint(killed, name)
        for content in (first, second):
            content.pop("logged_bytes")  # times have different numbers of digits
            content.pop("loops")  # Lightning also counts the steps that were lost
            content.pop("config")  # has the path of the run folder
            content["figures"] = {key: value for key, value in content["figures"].items() if not _is_duration(key)}
            content["callbacks"] = {key: value for key, value in content["callbacks"].items() if key != "Timer"}
        assert_equal(first, second, name)
