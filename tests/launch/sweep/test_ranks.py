"""Six real trainings of two processes each: one is killed, then the sweep itself, and `vlp sweep resume` finishes all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
TINY = (
    "model.vision.channels=2", "model.text.width=16", "model.text.layers=1", "model.projection.width=8", "tokenizer.size=300",
    "data.images.train=16", "data.images.val=4", "data.images.test=4", "data.batch_size=8", "data.num_workers=0",
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true", "trainer.max_epochs=1",
    "task=[retrieval]", "callbacks=[checkpoint]", "logger=none", "+callbacks.ranks={_target_: ranks.Ranks}",
)  # fmt: skip
RANKS = '''
import json
from pathlib import Path
from lightning.pytorch.callbacks import Callback
class Ranks(Callback):
    """Writes what each rank was really given."""
    def on_fit_start(self, trainer, pl_module):
        given = {"config": pl_module.config, "lr": trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None}
        file = Path(trainer.default_root_dir) / f"rank{trainer.global_rank}_of_{trainer.world_size}.json"
        file.write_text(json.dumps(given, sort_keys=True, default=str))
'''


def wait_until(condition: Callable[[], Any], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_sweep_of_two_process_jobs_is_finished_by_resume(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "COLUMNS": "160"}
    command = [
        sys.executable, "train.py", "-m", "seed=0,1,2", "optimizer.lr=1e-3,1e-2", f"runs={tmp_path / 'runs'}",
        f"data.root={tmp_path / 'scenes'}", *TINY,
    ]  # fmt: skip
    sweep = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def jobs() -> list[dict[str, Any]]:
        files = list((tmp_path / "runs").glob("*/*/sweep.json"))
        return json.loads(files[0].read_text())["jobs"] if files else []

    def running(index: int) -> bool:
        return (
            bool(jobs())
            and jobs()[index]["status"] == "running"
            and (Path(jobs()[index]["folder"]) / "process.json").exists()
        )

    wait_until(lambda: running(1))
    os.kill(json.loads((Path(jobs()[1]["folder"]) / "process.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: running(2))
    assert [job["status"] for job in jobs()[:3]] == ["finished", "failed", "running"]
    sweep.kill()
    sweep.wait()
    folder = Path(jobs()[0]["folder"]).parent

    resume = [sys.executable, "-m", "vlp.cli", "sweep", "resume", str(folder)]
    done = subprocess.run(resume, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [job["status"] for job in jobs()] == ["finished"] * 6
    for job in jobs():
        assert job["overrides"] in done.stdout
        assert job["metric"]["name"] == "val/scenes/retrieval/rsum"
        results = json.loads((Path(job["folder"]) / "results.json").read_text())
        assert results["val/scenes/retrieval/rsum"] == job["metric"]["value"]
        first, second = sorted(Path(job["folder"]).glob("rank*_of_2.json"))
        assert first.read_bytes() == second.read_bytes()
        given = json.loads(first.read_text())["config"]
        assert f"seed={given['seed']} optimizer.lr={given['optimizer']['lr']}" == job["overrides"]
