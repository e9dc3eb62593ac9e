"""The same command gives the same bits, also when it was killed and resumed: every experiment at its own sizes, precision and
number of threads (all of this machine's), since tensors too small for several threads would prove nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runs import finish, last, lines, same, same_runs
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

THREADS = str(os.cpu_count())
STEPS = (
    "logger=none", "trainer.max_steps=4", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1",
    "trainer.check_val_every_n_epoch=1", "callbacks.checkpoint.every_n_train_steps=1", "callbacks=[checkpoint]",
)  # fmt: skip
SPLITS = (("train", 560), ("val", 24), ("test", 24))
SCENES = tuple(f"data.images.{split}={count}" for split, count in SPLITS)
SOURCES = (*(f"data.sources.scenes.images.{split}={count}" for split, count in SPLITS), "data.epoch=4")
EXPERIMENTS = {
    "default": SCENES,
    "albef_scenes": SCENES,
    "vilt_scenes": SCENES,
    "encoder_decoder_scenes": SOURCES,
    "seed_pretrain": SOURCES,
}


def frozen(folder: Path, experiment: str, scenes: Path) -> Path:
    folder.mkdir(parents=True)
    key = "data.root" if EXPERIMENTS[experiment] is SCENES else "data.sources.scenes.root"
    chosen = [] if experiment == "default" else [f"experiment={experiment}"]
    overrides = [*chosen, *STEPS, *EXPERIMENTS[experiment], f"{key}={scenes}"]
    freeze(folder, resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), folder), "test")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("experiment", list(EXPERIMENTS))
def test_twice_and_killed(experiment: str, tmp_path: Path) -> None:
    one, again, killed = (
        frozen(tmp_path / name, experiment, tmp_path / "scenes") for name in ("one", "again", "killed")
    )
    finish(one, timeout=900, OMP_NUM_THREADS=THREADS)
    assert last(one)["numerics"]["deterministic"]
    assert any("loss" in name for name in lines(one)[0])
    finish(again, timeout=900, OMP_NUM_THREADS=THREADS)
    same_runs(one, again)
    finish(killed, code=-9, timeout=900, OMP_NUM_THREADS=THREADS, VLP_FAULTS="site=before_backward,kind=sigkill,step=2")
    printed = finish(killed, timeout=900, OMP_NUM_THREADS=THREADS)
    assert "going on from" in printed
    same_runs(one, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resumed_with_other_threads_is_reported(tmp_path: Path) -> None:
    folder = frozen(tmp_path / "run", "default", tmp_path / "scenes")
    finish(folder, code=-9, OMP_NUM_THREADS="1", VLP_FAULTS="site=before_backward,kind=sigkill,step=2")
    printed = finish(folder, OMP_NUM_THREADS="2")
    assert "written with threads 1, now 2: the resumed run is not bit-equal" in printed
    same(last(folder)["numerics"]["threads"], 2)
