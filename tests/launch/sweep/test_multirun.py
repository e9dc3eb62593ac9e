"""Sweeps in real processes: time limits, pinned devices, a ledger, and continuing after a crash or a SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.sweep.stand_in_sweeps import REPOSITORY, finish, jobs_of, lines, sweep_folder, wait_until
from vlp.launch.runs.folder import read_frozen_config
from vlp.launch.sweep.job_process import process_start_time

LIMITS = ("sweep.time_limit_min=0.05", "sweep.grace_period_s=1")


def test_a_job_that_finds_a_mistake_leaves_the_others_and_the_table_is_complete(launch: Any) -> None:
    out, err = finish(launch("train", "-m", "seed=range(5)", "data.root=mistake", "sweep.jobs=2"), 1)
    jobs = jobs_of(launch)
    assert [job["status"] for job in jobs] == ["finished", "finished", "failed", "finished", "finished"]
    assert jobs[2]["exit_code"] == 2
    assert "job 2 failed with exit code 2" in err
    assert "failed (2)" in out
    assert "vlp sweep resume" in out
    for seed, job in enumerate(jobs):
        value = None if seed == 2 else pytest.approx(seed, abs=0.01)
        assert (job["metric"] or {}).get("value") == value
        assert f"seed={seed}" in out


def test_at_most_so_many_jobs_run_at_once_each_on_its_own_device(launch: Any) -> None:
    finish(launch("train", "-m", "seed=range(6)", "data.root=brief", "sweep.jobs=2", "sweep.devices=[3,5]"))
    jobs = jobs_of(launch)
    times = [[float(lines(launch, job, name)[0].split()[1]) for name in ("begun", "ended")] for job in jobs]
    for begun, _ in times:
        assert sum(first <= begun < last for first, last in times) <= 2
    assert any(sum(first <= begun < last for first, last in times) == 2 for begun, _ in times)
    devices = [lines(launch, job, "starts")[0].split()[1] for job in jobs]
    assert devices == [job["devices"] for job in jobs]
    assert set(devices) == {"3", "5"}
    for index, (begun, _) in enumerate(times):
        beside = [i for i, (first, last) in enumerate(times) if first <= begun < last and i != index]
        assert all(devices[other] != devices[index] for other in beside)


def test_a_job_over_its_time_is_told_and_then_killed(launch: Any) -> None:
    finish(
        launch(
            "train",
            "-m",
            "data.root=slow,deaf,quick",
            *LIMITS,
            "sweep.jobs=3",
        ),
        1,
    )
    slow, deaf, quick = jobs_of(launch)
    assert (slow["status"], slow["exit_code"]) == ("timed out", 143)
    assert lines(launch, slow, "checkpoint")
    assert (deaf["status"], deaf["exit_code"]) == ("timed out", -9)
    assert quick["status"] == "finished"
    finish(launch("resume", str(sweep_folder(launch))), 1)  # `slow` continues from its checkpoint
    assert [job["status"] for job in jobs_of(launch)] == ["finished", "timed out", "finished"]


def test_resume_runs_only_what_is_unfinished(launch: Any, tmp_path: Path) -> None:
    finish(launch("train", "-m", "seed=range(3)", "data.root=crash_once"), 1)
    assert [job["exit_code"] for job in jobs_of(launch)] == [0, 7, 0]
    out, _ = finish(launch("resume", str(sweep_folder(launch)), cwd=tmp_path))  # from any folder
    jobs = jobs_of(launch)
    assert [job["status"] for job in jobs] == ["finished"] * 3
    assert [len(lines(launch, job, "starts")) for job in jobs] == [1, 2, 1]
    assert jobs[1]["metric"]["value"] == pytest.approx(1, abs=0.01)
    assert all(f"seed={seed}" in out for seed in range(3))


def test_resume_waits_for_jobs_that_outlived_a_killed_sweep(launch: Any) -> None:
    sweep = launch("train", "-m", "seed=range(3)", "data.root=hold", "sweep.jobs=2")
    wait_until(lambda: len(list(launch.folder.glob("runs/*/*/*/begun"))) == 2)
    sweep.kill()
    sweep.wait()
    folder = str(sweep_folder(launch))
    resumed = launch("resume", folder)
    wait_until(lambda: (sweep_folder(launch) / "sweep.json").stat().st_mtime > 0 and resumed.poll() is None)
    time.sleep(1.5)
    assert [len(lines(launch, job, "starts")) for job in jobs_of(launch)] == [1, 1, 0]  # none started twice
    _, err = finish(launch("resume", folder), 2)
    assert "this sweep is running" in err
    (launch.folder / "go").touch()
    out, _ = finish(resumed)
    assert "still runs" in out
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 3
    assert [len(lines(launch, job, "starts")) for job in jobs_of(launch)] == [1, 1, 1]


def test_resume_starts_again_what_died_with_the_sweep(launch: Any) -> None:
    sweep = launch("train", "-m", "seed=range(3)", "data.root=hold")
    wait_until(lambda: list(launch.folder.glob("runs/*/*/*/begun")))
    sweep.kill()
    sweep.wait()
    (record,) = launch.folder.glob("runs/*/*/*/process.json")
    pid = json.loads(record.read_text())["pid"]
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: process_start_time(pid) is None)
    (launch.folder / "go").touch()
    finish(launch("resume", str(sweep_folder(launch))))
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 3
    assert [len(lines(launch, job, "starts")) for job in jobs_of(launch)] == [2, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_lets_its_job_write_a_checkpoint_and_goes_on_later(launch: Any, number: int) -> None:
    sweep = launch("train", "-m", "seed=1,2", "data.root=slow")
    wait_until(lambda: list(launch.folder.glob("runs/*/*/*/begun")))
    sweep.send_signal(number)
    finish(sweep, 128 + number)
    assert [job["status"] for job in jobs_of(launch)] == ["stopped", "pending"]
    assert lines(launch, jobs_of(launch)[0], "checkpoint")
    for job in jobs_of(launch):
        (launch.folder / job["folder"] / "checkpoint").touch()
    finish(launch("resume", str(sweep_folder(launch))))
    assert [job["status"] for job in jobs_of(launch)] == ["finished"] * 2


def test_sweeps_of_the_same_second_do_not_collide_and_wandb_groups_them(launch: Any) -> None:
    sweeps = [launch("train", "-m", "seed=1,2") for _ in range(3)]
    for sweep in sweeps:
        finish(sweep)
    folders = [file.parent for file in launch.folder.glob("runs/*/*/sweep.json")]
    assert len(folders) == 3
    for folder in folders:
        for file in folder.glob("*/config.yaml"):
            assert read_frozen_config(file).loggers.wandb.group == folder.name


def test_compare_takes_the_mean_over_seeds_of_a_sweep_with_failures(launch: Any, tmp_path: Path) -> None:
    finish(launch("train", "-m", "optimizer.lr=0.1,0.2", "seed=1,2,3", "data.root=mistake"), 1)
    done = subprocess.run(
        [sys.executable, "-m", "vlp.cli", "compare", str(sweep_folder(launch)), "--json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert [row["settings"] for row in rows] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    for row in rows:
        assert row["figures"]["test/x_r1"] == [52.0, pytest.approx(2**0.5)]  # 51 and 53; the seed 2 failed
        assert len(row["runs"]) == 3


def test_patterns_with_backslashes_are_swept(launch: Any) -> None:
    """As in freeze=[],["^model\\.vision\\."], which Hydra reads and YAML does not."""
    finish(launch("train", "-m", r'data.sizes=[3],["^model\.vision\."]', "data.root=quick"))
    (folder,) = (launch.folder / "runs").glob("*/*/")
    configs = [read_frozen_config(file) for file in sorted(folder.glob("*/config.yaml"))]
    assert [list(config.data.sizes) for config in configs] == [[3], [r"^model\.vision\."]]


MISTAKES = {
    "sweep.executor=slrum": "did you mean slurm",
    "sweep.time_limit_min=-1": "expects a number above 0",
    "sweep.devices=[0]|sweep.jobs=2": "sweep.devices names 1",
    "sweep.devices=[0,0]": "named twice",
    "sweep.devices=0": "expects a list",
    "sweep.executor=slurm": "no sbatch",
    "optimizer.lr=interval(0,1)": "sweep=optuna",
    "seed=1,1": "jobs 0 and 1 are the same run (seed=1 and seed=1): leave out one of the values",
    "seed=2,1|optimizer.lr=1,1.0": "jobs 0 and 1 are the same run (seed=2 optimizer.lr=1 and seed=2 optimizer.lr=1.0)",
    "sweep=optuna": "nothing to search" ,
    "sweep=optuna|optimizer.lr=tag(lgo, interval(0,1))": "there is log",
    "sweep=optuna|optimizer.lr=tag(log, interval(0,1))": "optimizer.lr",
    "sweep=optuna|data.batch_size=interval(1,8)": "expects an integer",
    "sweep=optuna|sweep.sampler=tpee|seed=1,2": "there are tpe, random, cmaes",
    "sweep=optuna|sweep.direction=up|seed=1,2": "there are maximize, minimize",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_a_folder_appears(launch: Any, mistake: str) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("submitit")
    _, err = finish(launch("train", "-m", *mistake.split("|")), 2)
    assert MISTAKES[mistake] in err
    assert not (launch.folder / "runs").exists()


def test_resume_says_what_it_cannot_read(launch: Any, tmp_path: Path) -> None:
    _, err = finish(launch("resume", str(tmp_path)), 2)
    assert "no sweep.json" in err
    finish(launch("train", "-m", "seed=1,2", "data.root=mistake"), 1)
    moved = sweep_folder(launch).rename(tmp_path / "moved")
    _, err = finish(launch("resume", str(moved)), 2)
    assert "moved" in err


def test_a_literal_secret_is_asked_for_again(launch: Any, conf: Path) -> None:
    (conf / "logger").mkdir()
    (conf / "logger" / "cloud.yaml").write_text("# @package logger\ntoken: null\n")
    arguments = ("+logger=cloud", "logger.token=literal-5678", "seed=1,2", "data.root=mistake")
    finish(launch("train", "-m", *arguments), 1)
    folder = sweep_folder(launch)
    assert "5678" not in "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    _, err = finish(launch("resume", str(folder)), 2)
    assert "VLP_SECRET_LOGGER_TOKEN" in err
    finish(launch("resume", str(folder), VLP_SECRET_LOGGER_TOKEN="literal-5678"), 1)
