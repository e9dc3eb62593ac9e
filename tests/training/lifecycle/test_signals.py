"""Signals, lost processes and numbers that are not finite, made for real in runs of their own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.runs import (
    ROOT,
    SMALL_CLIP,
    TWO_PROCESSES,
    assert_runs_equal,
    finish_run,
    load_checkpoint,
    logged_lines,
    make_run_folder,
    run_environment,
    start_run,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    finish_run(make_run_folder(folder / "run", *SMALL_CLIP, data=folder / "scenes"))
    return folder / "run"


@pytest.mark.parametrize(
    ("site", "code"), [("build", 143), ("fit", 143), ("step", 143), ("validation", 143), ("writing", 143)]
)
def test_sigterm_and_going_on(site: str, code: int, straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    printed = finish_run(folder, code=code, VLP_FAULTS=f"site={site},kind=sigterm,count=1")
    assert f"resume with resume={folder}" in printed
    assert finish_run(folder)
    assert_runs_equal(straight, folder)


@pytest.mark.parametrize("site", ["validation,count=8", "validation,count=9", "writing,count=1300"])
def test_a_kill_in_the_last_validation(site: str, straight: Path, tmp_path: Path) -> None:
    """Nothing is left to train, and best.ckpt is still to be chosen."""
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    finish_run(folder, code=-9, VLP_FAULTS=f"site={site},kind=sigkill")
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_sigterm_to_the_whole_group(straight: Path, tmp_path: Path) -> None:
    """As a cluster sends it, to data workers too, and twice to the run where something passes it on."""
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, "data.num_workers=2", data=straight.parent / "scenes")
    process = start_run(folder)
    wait_for(folder, 4)
    for number in (signal.SIGTERM, signal.SIGTERM):
        os.killpg(process.pid, number)
        time.sleep(0.1)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 143, printed
    assert load_checkpoint(folder)["global_step"] >= 4
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_sigint_once(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    finish_run(folder, code=130, VLP_FAULTS="site=step,kind=sigint,step=7")
    assert load_checkpoint(folder)["global_step"] == 7
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_sigint_twice_ends_at_once(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    faults = "site=step,kind=sigint,step=7;site=step,kind=sigint,step=7;site=step,kind=hang,step=7"
    assert "by a second signal" in finish_run(folder, code=130, VLP_FAULTS=faults)


def test_sigusr1_writes_and_goes_on(straight: Path, tmp_path: Path) -> None:
    settings = (
        *SMALL_CLIP,
        "callbacks.checkpoint.every_n_train_steps=null",
        "callbacks.checkpoint.every_n_epochs=null",
    )
    folder = make_run_folder(tmp_path / "run", *settings, data=straight.parent / "scenes")
    faults = "site=step,kind=sigusr1,step=2;site=step,kind=sigkill,step=4"
    finish_run(folder, code=-9, VLP_FAULTS=faults)
    assert load_checkpoint(folder)["global_step"] == 2
    finish_run(folder)
    assert len(logged_lines(folder)) == len(logged_lines(straight))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(straight: Path, tmp_path: Path) -> None:
    for damage in ("cut", "flipped", "empty"):
        folder = make_run_folder(tmp_path / damage, *SMALL_CLIP, data=straight.parent / "scenes")
        finish_run(folder, code=-9, VLP_FAULTS="site=batch,kind=sigkill,step=8")
        file = folder / "checkpoints" / "last.ckpt"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.unlink()  # previous.ckpt may be the same file under another name
        file.write_bytes({"cut": data[: len(data) // 2], "flipped": bytes(data), "empty": b""}[damage])
        printed = finish_run(folder)
        assert "last.ckpt" in printed
        assert "resuming from" in printed
        assert "previous.ckpt" in printed
        assert_runs_equal(straight, folder)


def test_a_folder_is_trained_by_one(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    first = start_run(folder, VLP_FAULTS="site=step,kind=hang,step=3")
    try:
        wait_for(folder, 1)
        assert f"is being trained by process {first.pid}" in finish_run(folder, code=2)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_settings_that_change_the_numbers_are_refused(straight: Path, tmp_path: Path) -> None:
    file = straight / "checkpoints" / "last.ckpt"
    for override, told in (
        ("seed=1", "seed: 0 became 1"),
        ("optimizer.lr=0.5", "optimizer.lr"),
        ("model.text.width=24", "model.text.width: 16 became 24"),
        ("data.images.train=48", "data.images.train: 40 became 48"),
    ):
        name = override.replace("=", "_")
        folder = make_run_folder(
            tmp_path / name, *SMALL_CLIP, f"resume={file}", override, data=straight.parent / "scenes"
        )
        assert told in finish_run(folder, code=2)


def test_a_payload_is_refused(straight: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": Payload()}, tmp_path / "bad.ckpt")
    folder = make_run_folder(
        tmp_path / "run", *SMALL_CLIP, f"resume={tmp_path / 'bad.ckpt'}", data=straight.parent / "scenes"
    )
    finish_run(folder, code=2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("policy", ["raise", "skip", "rollback"])
def test_a_loss_that_is_no_number(policy: str, straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, f"nonfinite={policy}", data=straight.parent / "scenes")
    printed = finish_run(folder, code=4 if policy == "raise" else 0, VLP_FAULTS="site=before_backward,kind=nan,step=6")
    assert "the loss is nan on samples [[" in printed
    assert "not finite, at step 6" in printed
    assert all(
        value.isfinite().all() for value in load_checkpoint(folder)["state_dict"].values() if value.is_floating_point()
    )
    if policy == "raise":
        assert load_checkpoint(folder)["global_step"] == 6
        finish_run(folder)
        assert_runs_equal(straight, folder)


def test_nan_on_one_rank(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(
        tmp_path / "skip", *SMALL_CLIP, *TWO_PROCESSES, "nonfinite=skip", data=straight.parent / "scenes"
    )
    printed = finish_run(folder, VLP_FAULTS="site=before_backward,kind=nan,step=6,rank=1")
    assert "(rank 1), and its gradient is not finite, at step 6: the step is left out" in printed
    assert "(rank 0)" not in printed


@pytest.mark.parametrize("where", ["step,step=4", "validation,count=2", "validation,count=3", "test,count=1"])
def test_sigterm_to_one_rank_stops_both(where: str, straight: Path, tmp_path: Path) -> None:
    """Three validation batches a rank: after its last one a rank waits for the other in a collective."""
    settings = (*SMALL_CLIP, *TWO_PROCESSES, "data.eval_batch_size=1")
    folder = make_run_folder(tmp_path / "term", *settings, data=straight.parent / "scenes")
    printed = finish_run(folder, code=143, VLP_FAULTS=f"site={where},kind=sigterm,rank=1")
    assert time.time() - json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["time"] < 10
    assert f"resume with resume={folder}" in printed
    assert load_checkpoint(folder)["global_step"] == {"step": 4, "vali": 5, "test": 15}[where[:4]]
    finish_run(folder)
    uninterrupted = make_run_folder(tmp_path / "straight", *settings, data=straight.parent / "scenes")
    finish_run(uninterrupted)
    assert_runs_equal(uninterrupted, folder)


@pytest.mark.parametrize(("rank", "kind"), [(0, "sigkill"), (1, "sigkill"), (1, "raise")])
def test_a_lost_rank_ends_the_run_and_leaves_nothing_behind(
    rank: int, kind: str, straight: Path, tmp_path: Path
) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *TWO_PROCESSES, data=straight.parent / "scenes")
    process = start_run(folder, VLP_FAULTS=f"site=step,kind={kind},step=4,rank={rank}")
    printed = process.communicate(timeout=60)[0]
    assert process.returncode not in (0, None)
    if kind == "raise":
        assert "a fault was ordered by VLP_FAULTS" in printed
    time.sleep(1)
    left = subprocess.run(["pgrep", "-f", str(folder / "config.yaml")], capture_output=True, text=True).stdout
    assert not left
    finish_run(folder)


def test_a_stopped_rank_is_waited_for(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *TWO_PROCESSES, data=straight.parent / "scenes")
    process = start_run(folder, VLP_FAULTS="site=step,kind=sigstop,step=4,rank=1")
    wait_for(folder, 3)
    time.sleep(5)
    for pid in subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split():
        os.kill(int(pid), signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted, for which one has to be root")
@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk(policy: str, straight: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        settings = (*SMALL_CLIP, f"callbacks.checkpoint.on_disk_full={policy}")
        folder = make_run_folder(disk / "run", *settings, data=straight.parent / "scenes")
        finish_run(folder, code=-9, VLP_FAULTS="site=batch,kind=sigkill,step=3")
        kept = load_checkpoint(folder)["global_step"]
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 20_000)))
        printed = finish_run(folder, code=2 if policy == "stop" else 0)
        assert "could not be written" in printed
        assert "No space left on device" in printed
        assert load_checkpoint(folder)["global_step"] == kept
        (disk / "filler").unlink()
        finish_run(folder)
        assert load_checkpoint(folder)["global_step"] == 15
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_without_room_for_the_first_checkpoint(straight: Path, tmp_path: Path) -> None:
    """Nothing before it is intact, and nothing is said to be."""
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, data=straight.parent / "scenes")
    command = (
        f"ulimit -f 20; exec {shlex.join([sys.executable, '-m', 'vlp.training.run', str(folder / 'config.yaml')])}"
    )
    done = subprocess.run(["bash", "-c", command], env=run_environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "there is none before it" in done.stderr


def test_a_worker_that_is_killed_is_named_and_the_run_goes_on(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, "data.num_workers=2", data=straight.parent / "scenes")
    for kind in ("sigkill", "sigsegv", "exit"):
        printed = finish_run(folder, code=1, VLP_FAULTS=f"site=loading,kind={kind},count=12")
        assert "a data worker died" in printed
        assert "samples" in printed
        assert "Traceback" not in printed
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_a_worker_that_hangs_is_told(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(
        tmp_path / "run", *SMALL_CLIP, "data.num_workers=2", "data.timeout=5", data=straight.parent / "scenes"
    )
    printed = finish_run(folder, code=1, VLP_FAULTS="site=loading,kind=hang,count=12")
    assert "data.timeout=5" in printed
    assert "Traceback" not in printed


def test_shared_memory_that_is_full(straight: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, which has a /dev/shm of 64 KB."""
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, "data.num_workers=2", data=straight.parent / "scenes")
    small = ("unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "bash")
    if subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root")
    command = [*small, sys.executable, "-m", "vlp.training.run", str(folder / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=run_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "/dev/shm" in done.stderr
    assert "data.num_workers=0" in done.stderr
    finish_run(folder)
    assert_runs_equal(straight, folder)


def test_a_port_that_is_taken(straight: Path, tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, *TWO_PROCESSES, data=straight.parent / "scenes")
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        assert f"MASTER_PORT={port} is taken" in finish_run(folder, MASTER_PORT=str(port))


def wait_for(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        file = folder / "metrics.jsonl"
        if file.exists() and any(json.loads(line)["step"] >= step for line in file.read_text().splitlines()):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {folder}")
