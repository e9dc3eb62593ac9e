"""A command gives the same bits each time, also when it is killed and resumed: every experiment with its own sizes and precision
and with all threads of this machine, because small tensors would use only one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.behaviour.generated_data import (
    DETECTORS,
    EVALUATIONS,
    LABEL_MAPS,
    MIXTURES,
    RECIPES,
    SCENES_DATA,
    TAUGHT,
    VOC_BOXES,
    coco_overrides,
    label_map_overrides,
    mixture_overrides,
    recipe_overrides,
    scenes_overrides,
    teacher_overrides,
    voc_overrides,
)
from tests.runs import assert_equal, assert_runs_equal, finish_run, load_checkpoint, logged_lines
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.folder import freeze

THREADS = str(os.cpu_count())
STEPS = (
    "logger=none", "trainer.max_steps=4", "trainer.max_epochs=-1", "trainer.log_every_n_steps=1",
    "trainer.limit_train_batches=4", "trainer.check_val_every_n_epoch=1", "callbacks.checkpoint.every_n_train_steps=1",
    "callbacks=[checkpoint]",
)  # fmt: skip
COUNTS = {"train": 560, "val": 24, "test": 24}
# of the originals' layers, which are alike, so few that a step takes seconds; widths, image size and queue are their own
LAYERS = {
    "pretrain_4m_albef": ("model.vision.layers=2", "model.text.layers=2", "model.fusion.layers=2"),
    "pretrain_4m_vilt": ("model.fusion.layers=3",),
}
FILES = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
EXPERIMENTS = ("default", *(name for name in FILES if name not in EVALUATIONS))


def overrides(experiment: str, folder: Path) -> list[str]:
    """The experiment's own model, objectives, precision and batch, on generated data; the recipes of four million images in
    batches that fit into the memory of a small machine."""
    if experiment in RECIPES:
        small = ("data.epoch=4", "tasks.retrieval.rerank=2") if experiment == "pretrain_4m_albef" else ("data.epoch=4",)
        return [f"experiment={experiment}", *recipe_overrides(folder, batch_size=4), *LAYERS[experiment], *small]
    if experiment in MIXTURES:
        return [f"experiment={experiment}", *mixture_overrides(folder / "scenes", COUNTS), "data.epoch=4"]
    if experiment == "default":
        return scenes_overrides(folder / "scenes", COUNTS)
    if experiment in LABEL_MAPS:
        return [f"experiment={experiment}", *label_map_overrides(folder / experiment, experiment)]
    if experiment in VOC_BOXES:
        return [f"experiment={experiment}", *voc_overrides(folder / experiment), f"data.cache={folder / 'cache'}"]
    if experiment in DETECTORS:
        return [f"experiment={experiment}", *coco_overrides(folder)]
    size = ("data.batch_size=200",) if experiment == "flickr8k_scratch" else ()
    data = SCENES_DATA.get(experiment)
    return [
        f"experiment={experiment}",
        *([f"data={data}"] if data else []),
        *size,
        *(teacher_overrides(folder) if experiment in TAUGHT else ()),
        *scenes_overrides(folder / "scenes", COUNTS),
    ]


def make_run_folder(folder: Path, experiment: str, data: Path) -> Path:
    folder.mkdir(parents=True)
    data.mkdir(exist_ok=True)
    config = Composer(conf=conf_folder(), config_name="train").compose([*overrides(experiment, data), *STEPS])
    freeze(folder, resolve_config(config, folder), "test")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_twice_and_killed(experiment: str, tmp_path: Path) -> None:
    one, again, killed = (
        make_run_folder(tmp_path / name, experiment, tmp_path / "data") for name in ("one", "again", "killed")
    )
    finish_run(one, timeout=900, OMP_NUM_THREADS=THREADS)
    assert load_checkpoint(one)["numerics"]["deterministic"]
    assert any("loss" in name for name in logged_lines(one)[0])
    finish_run(again, timeout=900, OMP_NUM_THREADS=THREADS)
    assert_runs_equal(one, again)
    finish_run(
        killed, code=-9, timeout=900, OMP_NUM_THREADS=THREADS, VLP_FAULTS="site=before_backward,kind=sigkill,step=2"
    )
    printed = finish_run(killed, timeout=900, OMP_NUM_THREADS=THREADS)
    assert "resuming from" in printed
    assert_runs_equal(one, killed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resumed_with_other_threads_is_reported(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path / "run", "default", tmp_path / "data")
    finish_run(folder, code=-9, OMP_NUM_THREADS="1", VLP_FAULTS="site=before_backward,kind=sigkill,step=2")
    printed = finish_run(folder, OMP_NUM_THREADS="2")
    assert "written with threads 1, now 2: the resumed run is not bit-equal" in printed
    assert_equal(load_checkpoint(folder)["numerics"]["threads"], 2)
