"""Sweeps through submitit's local executor, and on a real Ray of this machine."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launch.sweep import fake_slurm
from tests.launch.sweep.stand_in_sweeps import finish, jobs_of, lines, sweep_folder, wait_until

pytestmark = pytest.mark.slow  # whole processes, several minutes in all

LOCAL = ("sweep.executor=slurm", "sweep.slurm.cluster=local", "sweep.jobs=2", "sweep.grace_period_s=5")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


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
    os.kill(
        parent(json.loads(record.read_text())["pid"]), signal.SIGUSR2
    )  # to the submitted task, as Slurm's warning is
    finish(sweep)
    (job,) = jobs_of(launch)
    assert (job["status"], job["exit_code"]) == ("finished", 0)
    assert len(lines(launch, job, "checkpoint")) == 1
    assert len(lines(launch, job, "starts")) == 2


def test_slurm_is_asked_once_to_queue_a_preempted_task_of_the_array_again(launch: Any, tmp_path: Path) -> None:
    """Submitit's real executor and a stand-in for Slurm's programs."""
    pytest.importorskip("submitit")
    programs, spool = fake_slurm.install(tmp_path)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    sweep = launch(
        "train",
        "-m",
        "seed=0,1",
        "data.root=slow",
        "sweep.executor=slurm",
        "sweep.jobs=2",
        "sweep.grace_period_s=5",
        PATH=path,
    )
    wait_until(lambda: len(list(launch.folder.glob("runs/*/*/*/begun"))) == 2)
    record = launch.folder / jobs_of(launch)[1]["folder"] / "process.json"
    wait_until(record.exists)
    os.kill(parent(json.loads(record.read_text())["pid"]), signal.SIGUSR2)  # Slurm's warning, to the second task
    wait_until(lambda: "scontrol requeue" in (spool / "calls").read_text())
    (launch.folder / jobs_of(launch)[0]["folder"] / "checkpoint").touch()  # the first ends by itself
    calls = [line for line in (spool / "calls").read_text().splitlines() if "requeue" in line]
    assert calls == ["scontrol requeue 77_1"]
    wait_until(lambda: len(lines(launch, jobs_of(launch)[1], "ended")) == 1)
    assert len(lines(launch, jobs_of(launch)[1], "starts")) == 2
    assert len(lines(launch, jobs_of(launch)[1], "checkpoint")) == 1
    sweep.send_signal(signal.SIGINT)
    finish(sweep, 130)


def test_slurm_runs_again_what_failed(launch: Any, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    programs, spool = fake_slurm.install(tmp_path)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    finish(
        launch(
            "train", "-m", "seed=range(2)", "data.root=crash_once", "sweep.executor=slurm", "sweep.jobs=2", PATH=path
        ),
        1,
    )
    assert [job["status"] for job in jobs_of(launch)] == ["finished", "failed"]
    finish(launch("resume", str(sweep_folder(launch)), PATH=path))
    assert [job["status"] for job in jobs_of(launch)] == ["finished", "finished"]
    assert (spool / "calls").read_text().count("sbatch") == 2


def test_an_id_that_is_none_of_slurms_is_refused(launch: Any, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    programs, _ = fake_slurm.install(tmp_path)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    finish(
        launch("train", "-m", "seed=0,1", "data.root=crash_once", "sweep.executor=slurm", "sweep.jobs=2", PATH=path), 1
    )
    file = sweep_folder(launch) / "sweep.json"
    content = json.loads(file.read_text())
    content["jobs"][1] |= {"ticket": "77_1; touch ran", "status": "running"}
    file.write_text(json.dumps(content))
    _, err = finish(launch("resume", str(sweep_folder(launch)), PATH=path), 2)
    assert "77_1; touch ran is no id of a Slurm job" in err


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
    ray = ("sweep.executor=ray", "sweep.jobs=2", "sweep.ray.cpus=0.5")
    finish(launch("train", "-m", "seed=range(3)", "data.root=crash_once", *ray), 1)
    assert [(job["status"], job["exit_code"]) for job in jobs_of(launch)] == [
        ("finished", 0),
        ("failed", 7),
        ("finished", 0),
    ]
    out, _ = finish(launch("resume", str(sweep_folder(launch))))
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 3
    assert all(f"seed={seed}" in out for seed in range(3))
