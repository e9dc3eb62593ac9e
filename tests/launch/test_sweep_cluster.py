"""Sweeps through submitit's local executor, and on a real Ray of this machine."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launch.stand_in_sweeps import finish, jobs_of, lines, sweep_folder, wait_until

pytestmark = pytest.mark.slow  # whole processes, several minutes in all

LOCAL = ("sweep.on=slurm", "sweep.slurm.cluster=local", "sweep.jobs=2", "sweep.grace=5")


def test_submitit_runs_every_job_and_resume_what_failed(launch: Any) -> None:
    pytest.importorskip("submitit")
    finish(launch("train", "-m", "seed=range(3)", "data.root=crash_once", *LOCAL), 1)
    assert [(job["status"], job["exit_code"]) for job in jobs_of(launch)] == [
        ("finished", 0),
        ("failed", 7),
        ("finished", 0),
    ]
    finish(launch("resume", str(sweep_folder(launch))))
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 3
    assert [len(lines(launch, job, "starts")) for job in jobs_of(launch)] == [1, 2, 1]


def test_a_preempted_task_writes_a_checkpoint_and_is_queued_again(launch: Any) -> None:
    pytest.importorskip("submitit")
    sweep = launch("train", "-m", "seed=0", "data.root=slow", *LOCAL)
    wait_until(lambda: list(launch.folder.glob("runs/*/*/*/begun")))
    wait_until(lambda: list(launch.folder.glob("runs/*/*/*/process.json")))
    (record,) = launch.folder.glob("runs/*/*/*/process.json")
    stat = Path(f"/proc/{json.loads(record.read_text())['pid']}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGUSR2)  # to the submitted task, as Slurm's warning is
    finish(sweep)
    (job,) = jobs_of(launch)
    assert (job["status"], job["exit_code"]) == ("finished", 0)
    assert len(lines(launch, job, "checkpoint")) == 1
    assert len(lines(launch, job, "starts")) == 2


def test_a_stopped_sweep_stops_submitted_jobs_gently(launch: Any) -> None:
    pytest.importorskip("submitit")
    sweep = launch("train", "-m", "seed=0,1", "data.root=slow", *LOCAL)
    wait_until(lambda: len(list(launch.folder.glob("runs/*/*/*/begun"))) == 2)
    sweep.send_signal(signal.SIGINT)
    finish(sweep, 130)
    assert [job["status"] for job in jobs_of(launch)] == ["stopped"] * 2
    assert all(lines(launch, job, "checkpoint") for job in jobs_of(launch))


@pytest.mark.slow
def test_a_sweep_on_a_real_ray(launch: Any) -> None:
    pytest.importorskip("ray", reason="ray is an extra of its own: pip install 'vlp[ray]'")
    ray = ("sweep.on=ray", "sweep.jobs=2", "sweep.ray.cpus=0.5")
    finish(launch("train", "-m", "seed=range(3)", "data.root=crash_once", *ray), 1)
    assert [(job["status"], job["exit_code"]) for job in jobs_of(launch)] == [
        ("finished", 0),
        ("failed", 7),
        ("finished", 0),
    ]
    out, _ = finish(launch("resume", str(sweep_folder(launch))))
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 3
    assert all(f"seed={seed}" in out for seed in range(3))
