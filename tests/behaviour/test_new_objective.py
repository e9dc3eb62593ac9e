"""A new objective is one file and one YAML, those of CONTRIBUTING.md: nothing else changes, and any one can be left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    "trainer.max_steps=2", "trainer.max_epochs=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    "data.batch_size=8", "data.eval_batch_size=8", "data.images={train: 24, val: 8, test: 8}", "data.num_workers=0",
    "logger=none", "callbacks=[checkpoint]", "model=albef_tiny", "model.vision.channels=4", "model.text.width=16",
    "model.fusion.width=16", "model.projection.width=8", "tokenizer.size=300", "task=[retrieval]",
)  # fmt: skip

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MINE, YAML = (
    CONTRIBUTING.partition(f' title="{file}"\n')[2].partition("```")[0]
    for file in ("vlp/objectives/mine.py", "conf/objective/mine.yaml")
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project, to which files can be added."""
    for name in ("vlp", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    return tmp_path


def train(folder: Path, *overrides: str) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "train.py", *SMALL, f"data.root={folder}/data", f"runs={folder}/runs", *overrides],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (folder / "runs" / "scenes").iterdir()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(folder / "runs")
    return {key: value for line in lines for key, value in line.items() if key.startswith("train/")}


def test_one_file_and_one_yaml_add_an_objective_and_any_can_go(copy: Path) -> None:
    (copy / "vlp/objectives/mine.py").write_text(MINE)
    (copy / "conf/objective/mine.yaml").write_text(YAML)
    every = train(copy, "objective=[itc,itm,mlm,mine]", "trainer.log_every_n_steps=1")
    assert {key.split("/")[2] for key in every if key.endswith("/loss")} == {"itc", "itm", "mlm", "mine"}
    fewer = train(copy, "objective=[itc,mlm,mine]", "trainer.log_every_n_steps=1")
    assert {key.split("/")[2] for key in fewer if key.endswith("/loss")} == {"itc", "mlm", "mine"}
