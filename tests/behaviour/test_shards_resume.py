"""Training on shards of unequal sizes in an S3 bucket with two processes; killed in the middle of an epoch and resumed with
another number of workers: the losses of each step equal those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.s3 import BUCKET, s3_server

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "model.vision.channels=2", "model.text.width=16", "model.text.layers=1", "model.projection.width=8", "tokenizer.size=300",
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1", "task=[retrieval]", "callbacks=[checkpoint,pictures]", "logger=none", "data.batch_size=8",
    "callbacks.checkpoint.every_n_train_steps=1", "data.block=2", "data.eval_batch_size=4",
)  # fmt: skip


def command(folder: Path, root: str, *overrides: str) -> list[str]:
    return [
        sys.executable, "train.py", "data=shards", f"data.root={root}", f"data.cache={folder / 'cache'}", f"runs={folder}",
        *TINY, *overrides,
    ]  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    """By step, without a line that a killed process did not finish."""
    losses_by_step = {}
    for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True):
        if line.endswith("\n") and "train/shards/itc/loss" in (record := json.loads(line)):
            losses_by_step[record["step"]] = record["train/shards/itc/loss"]
    return losses_by_step


@pytest.mark.slow
def test_a_killed_run_on_s3_goes_on_to_the_same_stream(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pack = [
        "data", "pack", str(tmp_path / "shards"), "data=scenes", f"data.root={tmp_path / 'scenes'}", "--samples", "9",
        "data.images.train=44", "data.images.val=4", "data.images.test=4",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "vlp.cli", *pack], cwd=ROOT, env=environment, check=True)
    with s3_server(tmp_path / "shards") as address:
        environment |= address
        root = f"s3://{BUCKET}"
        uninterrupted_command = command(tmp_path, root, "name=straight", "data.num_workers=0")
        subprocess.run(uninterrupted_command, cwd=ROOT, env=environment, check=True, timeout=250)
        uninterrupted = losses(next((tmp_path / "straight").iterdir()))
        assert len(uninterrupted) == 15  # 44 samples: five global batches of 8 an epoch

        killed = command(tmp_path, root, "name=killed", "data.num_workers=2")
        process = subprocess.Popen(killed, cwd=ROOT, env=environment, start_new_session=True)
        wait_for_step(tmp_path / "killed", 7)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        run = next((tmp_path / "killed").iterdir())
        before = losses(run)
        assert max(before) < max(uninterrupted)

        checkpoint = run / "checkpoints" / "last.ckpt"
        resumed = command(tmp_path, root, "name=resumed", "data.num_workers=1", f"resume={checkpoint}")
        subprocess.run(resumed, cwd=ROOT, env=environment, check=True, timeout=250)
        after = losses(next((tmp_path / "resumed").iterdir()))
    assert sorted(before | after) == sorted(uninterrupted)
    assert before == {step: uninterrupted[step] for step in before}
    assert after == {step: uninterrupted[step] for step in after}
    assert 0 < min(after) <= 8


def wait_for_step(parent: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        runs = list(parent.glob("*/metrics.jsonl"))
        saved = list(parent.glob("*/checkpoints/last.ckpt"))
        if runs and saved and max(losses(runs[0].parent), default=-1) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {parent}")
