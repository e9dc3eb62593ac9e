"""Commands that restart or resume a lost run: --max-restarts, resume=FOLDER, resume=auto, torchrun."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.runs import (
    ROOT,
    SMALL_CLIP,
    TWO_PROCESSES,
    assert_runs_equal,
    finish_run,
    load_checkpoint,
    make_run_folder,
    run_environment,
)
from tests.warm_python import warm_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def command(folder: Path, *words: str, code: int = 0, start: tuple[str, ...] = (), **more: str) -> str:
    words = ("train.py", f"runs={folder}", f"data.root={folder / 'scenes'}", *words)
    done = subprocess.run(
        [warm_python(), *start, *words],
        cwd=ROOT,
        env=run_environment(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, (done.returncode, done.stdout[-1500:] + done.stderr[-12000:])
    return done.stdout + done.stderr


def test_max_restarts(tmp_path: Path) -> None:
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *SMALL_CLIP, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    faults = f"site=step,kind=sigkill,step=4,once={tmp_path / 'a'};site=step,kind=exit,step=9,once={tmp_path / 'b'}"
    printed = command(tmp_path, *SMALL_CLIP, "name=lost", "--max-restarts", "2", VLP_FAULTS=faults)
    assert printed.count("it is started again") == 2
    (run,) = (tmp_path / "lost").iterdir()
    assert_runs_equal(uninterrupted, run)


def test_resume_needs_nothing_but_the_folder(tmp_path: Path) -> None:
    command(tmp_path, *SMALL_CLIP, "name=one", code=-9, VLP_FAULTS="site=batch,kind=sigkill,step=6")
    (run,) = (tmp_path / "one").iterdir()
    refused = command(tmp_path, f"resume={run}", "seed=3", code=2)
    assert "seed: 0 became 3" in refused
    done = subprocess.run(
        [warm_python(), "train.py", f"resume={run}"],
        cwd=ROOT,
        env=run_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 6" in done.stderr
    assert load_checkpoint(run)["global_step"] == 15
    assert (run / "results.json").exists()


def test_auto_resumes_the_newest_unfinished_run(tmp_path: Path) -> None:
    assert "starting a new one" in command(
        tmp_path, *SMALL_CLIP, "name=auto", "resume=auto", code=-9, VLP_FAULTS="site=batch,kind=sigkill,step=6"
    )
    assert "resuming in" in command(tmp_path, *SMALL_CLIP, "name=auto", "resume=auto")
    assert len(list((tmp_path / "auto").iterdir())) == 1
    assert "starting a new one" in command(
        tmp_path, *SMALL_CLIP, "name=auto", "resume=auto", "trainer.fast_dev_run=false"
    )


def test_torchrun(tmp_path: Path) -> None:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    faults = f"site=step,kind=sigkill,step=4,rank=1,once={tmp_path / 'struck'}"
    command(tmp_path, *SMALL_CLIP, *TWO_PROCESSES, "name=elastic", start=start, VLP_FAULTS=faults)
    runs = [path for path in (tmp_path / "elastic").iterdir() if path.is_dir()]
    assert len(runs) == 1
    assert (runs[0] / "results.json").exists()
    assert load_checkpoint(runs[0])["global_step"] == 15
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *SMALL_CLIP, *TWO_PROCESSES, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    assert_runs_equal(uninterrupted, runs[0])
