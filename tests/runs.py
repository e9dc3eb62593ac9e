"""Whole runs in processes of their own, for tests that kill, signal and resume them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

ROOT = Path(__file__).resolve().parents[1]
CLIP = (
    "data.images.train=40", "data.images.val=6", "data.images.test=6", "data.batch_size=8", "data.eval_batch_size=2",
    "data.num_workers=0", "tokenizer.size=300", "model.vision.channels=2", "model.text.width=16", "model.text.layers=1",
    "model.projection.width=8", "task=[retrieval]", "callbacks=[checkpoint,progress]", "logger=none", "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=1",
)  # fmt: skip
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")


def environment(**more: str) -> dict[str, str]:
    """LOCAL_RANK and the like of an outer run are left out."""
    own = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"} | more


def frozen(folder: Path, *overrides: str, data: Path) -> Path:
    """The run folder, with its config."""
    folder.mkdir(parents=True)
    config = Composer(conf=conf_folder(), config_name="train").compose([f"data.root={data}", *overrides])
    freeze(folder, resolve_config(config, folder), "test")
    return folder


def start(folder: Path, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vlp.training.run", str(folder / "config.yaml")]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(folder: Path, *, code: int = 0, timeout: float = 120, **more: str) -> str:
    process = start(folder, **more)
    printed = process.communicate(timeout=timeout)[0]
    assert process.returncode == code, (process.returncode, printed[-3000:])
    return printed


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in told]


def last(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, map_location="cpu", weights_only=True)


def figures(folder: Path) -> dict[str, Any]:
    """results.json without what depends on the clock and on the checkout."""
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if not key.endswith("seconds") and key != "commit"}


def same(one: Any, other: Any, place: str = "") -> None:
    """To the bit, all tensors, numbers and names in two checkpoints."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{place}[{index}]")
    else:
        assert one == other or (one != one and other != other), (place, one, other)


def same_runs(straight: Path, killed: Path) -> None:
    """Losses, measured figures, weights, optimiser, averages and results, to the bit."""
    same(lines(straight), lines(killed), "metrics.jsonl")
    same(figures(straight), figures(killed), "results.json")
    for name in ("last.ckpt", "best.ckpt"):
        one, other = last(straight, name), last(killed, name)
        for content in (one, other):
            content.pop("logged_bytes")  # times have different numbers of digits
            content.pop("loops")  # Lightning counts what it was asked, also what was lost
            content.pop("config")  # names the run folder
            content["callbacks"] = {key: value for key, value in content["callbacks"].items() if key != "Timer"}
        same(one, other, name)
