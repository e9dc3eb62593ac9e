"""A run that is killed and resumed many times equals, bit by bit, the run without an interruption."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.runs import (
    SMALL_CLIP,
    TWO_PROCESSES,
    assert_runs_equal,
    finish_run,
    load_checkpoint,
    logged_lines,
    make_run_folder,
    start_run,
)

SMALL = tuple(word for word in SMALL_CLIP if not word.startswith(("model.", "task=")))
MODELS = {
    "clip": (*SMALL_CLIP, "callbacks=[checkpoint,progress,ema]"),
    "albef": (
        *SMALL, "model=albef_tiny", "model/vision=vit_tiny", "objective=[itc,itm,mlm]", "task=[retrieval]", "momentum=0.9",
        "model.vision.width=24", "model.vision.layers=1", "model.text.width=16", "model.text.layers=1", "model.fusion.width=16",
        "model.fusion.layers=1", "model.projection.width=8", "objectives.itc.queue_size=13", "objectives.itc.width=8",
        "objectives.itc.distillation=0.4", "model.text.dropout=0.1",
    ),
    "vilt": (
        *SMALL, "model=vilt_tiny", "objective=[itm,mlm]", "task=[matching]", "monitor=val/scenes/matching/accuracy",
        "objectives.itm.contrastive=false", "tasks.matching.contrastive=false", "model.text.dropout=0.1",
        "model.fusion.dropout=0.1",
        "model.fusion.layers=1",
    ),
}  # fmt: skip
ACCUMULATED = (
    *SMALL, "model=encoder_decoder_tiny", "objective=[lm]", "task=[captioning]", "monitor=val/scenes/captioning/cider_d",
    "trainer.accumulate_grad_batches=2", "callbacks=[checkpoint,progress,ema]", "schedule.warmup=3", "freeze=['^model.vision']",
)  # fmt: skip
KILLS = 15  # with 0 workers, and as many with 2
SITES = ("batch", "before_backward", "step", "validation", "writing", "replacing")


def last_logged_step(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    complete_lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return json.loads(complete_lines[-1])["step"] if complete_lines else 0


def kill_at_random(folder: Path, kills: int, draws: random.Random, *, steps: int, devices: int = 1) -> int:
    """Kills and resumes a run: at a random site after a few visits, or at a random time; the last two times after training.
    Returns the number of kills, as a run may finish before the last of them."""
    for left in range(kills, 0, -1):
        if left > 2 and draws.random() < 0.25:
            process = start_run(folder)
            earliest, latest = (time.monotonic() + draws.uniform(*seconds) for seconds in ((0, 4), (4, 9)))
            while time.monotonic() < (earliest if last_logged_step(folder) > 0.75 * steps else latest):
                time.sleep(0.005)  # on a fast machine training may end earlier
            process.send_signal(signal.SIGKILL)
        else:
            site, count = {1: "teardown", 2: "test"}.get(left) or draws.choice(SITES), draws.randint(1, 4)
            count, rank = (count, draws.randrange(devices)) if left > 2 else (1, 0)  # another rank may be too late
            process = start_run(folder, VLP_FAULTS=f"site={site},kind=sigkill,count={count},rank={rank}")
        process.communicate(timeout=120)
        if process.returncode == 0:  # the run has finished
            return kills - left
        assert process.returncode == -signal.SIGKILL or devices > 1
    return kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("model", list(MODELS))
def test_killed_runs_equal_the_uninterrupted_one(model: str, workers: int, tmp_path: Path) -> None:
    settings = (*MODELS[model], f"data.num_workers={workers}", "trainer.max_epochs=7")
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *settings, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    killed = make_run_folder(tmp_path / "killed", *settings, data=tmp_path / "scenes")
    assert kill_at_random(killed, KILLS, random.Random(workers), steps=35) >= KILLS - 4
    finish_run(killed)
    assert_runs_equal(uninterrupted, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_that_are_killed(tmp_path: Path) -> None:
    settings = (*MODELS["clip"], *TWO_PROCESSES)
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *settings, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    killed = make_run_folder(tmp_path / "killed", *settings, data=tmp_path / "scenes")
    assert kill_at_random(killed, 4, random.Random(2), steps=15, devices=2) >= 3
    finish_run(killed)
    assert_runs_equal(uninterrupted, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_then_one_then_two_processes(tmp_path: Path) -> None:
    """The same global batches: losses are equal up to rounding, as sums are in another order. The tower has no batch norms,
    whose statistics would be those of each process's rows."""
    settings = (
        *(word for word in SMALL_CLIP if not word.startswith("model.vision")),
        *TWO_PROCESSES,
        "model/vision=vit_tiny",
    )
    settings += ("model.vision.width=24", "model.vision.layers=1")
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *settings, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    changed = make_run_folder(tmp_path / "changed", *settings, data=tmp_path / "scenes")
    file = changed / "config.yaml"
    text = file.read_text()
    for devices, step in ((2, 4), (1, 8), (2, None)):
        file.write_text(text.replace("devices: 2", f"devices: {devices}"))
        faults = {} if step is None else {"VLP_FAULTS": f"site=step,kind=sigkill,step={step}"}
        process = start_run(changed, **faults)
        process.communicate(timeout=120)
    assert process.returncode == 0
    one, other = logged_lines(uninterrupted), logged_lines(changed)
    assert [line["step"] for line in one] == [line["step"] for line in other]
    losses = [
        [line["train/scenes/itc/loss"] for line in steps_logged if "train/scenes/itc/loss" in line]
        for steps_logged in (one, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_numbers_of_workers(tmp_path: Path) -> None:
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *SMALL_CLIP, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    changed = make_run_folder(tmp_path / "changed", *SMALL_CLIP, data=tmp_path / "scenes")
    file = changed / "config.yaml"
    text = file.read_text()
    for workers, step in ((2, 3), (1, 7), (0, 8), (2, None)):
        file.write_text(text.replace("num_workers: 0", f"num_workers: {workers}"))
        faults = {} if step is None else {"VLP_FAULTS": f"site=batch,kind=sigkill,step={step}"}
        finish_run(changed, code=0 if step is None else -9, **faults)
    assert_runs_equal(uninterrupted, changed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "at", ["site=batch,step=1", "site=batch,step=3", "site=before_backward,count=5", "site=step,step=6"]
)
def test_within_and_between_accumulated_batches(at: str, tmp_path: Path) -> None:
    """Two batches per step, a frozen tower, a schedule by steps; also killed after the first of the two batches."""
    uninterrupted = make_run_folder(tmp_path / "uninterrupted", *ACCUMULATED, data=tmp_path / "scenes")
    finish_run(uninterrupted)
    killed = make_run_folder(tmp_path / "killed", *ACCUMULATED, data=tmp_path / "scenes")
    finish_run(killed, code=-9, VLP_FAULTS=f"{at},kind=sigkill")
    finish_run(killed)
    assert_runs_equal(uninterrupted, killed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_while_checkpoints_are_written(tmp_path: Path) -> None:
    """40 SIGKILLs during writes, with the temporary folder on another file system."""
    from vlp.training.lifecycle.checkpoint_files import newest_checkpoint

    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("there is no other file system to put the temporary folder on")
    folder = make_run_folder(tmp_path / "run", *SMALL_CLIP, "trainer.max_epochs=400", data=tmp_path / "scenes")
    draws = random.Random(0)
    steps = []
    for _ in range(40):
        site = draws.choice(["writing", "replacing"])
        count = draws.randint(1, 200) if site == "writing" else draws.randint(1, 3)
        process = start_run(folder, TMPDIR=str(shared), VLP_FAULTS=f"site={site},kind=sigkill,count={count}")
        process.communicate(timeout=120)
        assert process.returncode == -9
        path, _ = newest_checkpoint(folder / "checkpoints")
        steps_logged = [line["step"] for line in logged_lines(folder) if "train/scenes/itc/loss" in line]
        if path is not None:
            steps.append(load_checkpoint(folder, path.name)["global_step"])
            assert max(steps_logged) + 1 - steps[-1] <= 1
    assert steps == sorted(steps)
