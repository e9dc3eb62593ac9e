"""The benchmarks still import what they use, and those that need no data run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"
REQUIRES = {
    "deploy_latency": ("open_clip", "onnxscript", "onnxruntime", "openvino", "nncf"),
    "image_loading": ("open_clip", "webdataset"), "serving_throughput": ("litserve", "fastapi", "uvicorn"),
    "training_step": ("open_clip",),
}  # fmt: skip
SHORT = {
    "caption_index": ("--captions", "1000", "--workers", "1"),
    "cascade": ("--rounds", "1", "--candidates", "2"),
    "deploy_latency": ("--rounds", "1", "--tiny"),
    "photo_search": ("--rows", "3000", "--queries", "8", "--rounds", "1"),
    "joint_step": ("--rounds", "1", "--batch", "2"),
    "lightning_overhead": ("--rounds", "1", "--steps", "2", "--skip", "1", "data.batch_size=8",
                           "data.images={train: 64, val: 8, test: 8}"),
    "serving_throughput": ("--rounds", "1", "--seconds", "1"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.py")))
def test_import(name: str) -> None:
    for library in REQUIRES.get(name, ()):
        pytest.importorskip(library)
    importlib.import_module(f"experiments.benchmarks.{name}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SHORT)
def test_run(name: str, tmp_path: Path) -> None:
    options = [*SHORT[name], *([f"data.root={tmp_path}"] if name == "lightning_overhead" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
