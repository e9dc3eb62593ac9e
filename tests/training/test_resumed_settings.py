"""`resume=FOLDER key=value force=true` trains with the settings that it records in config.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import SMALL_CLIP, load_checkpoint, logged_lines, make_run_folder, resume_here, train_here
from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.folder import read_frozen_config
from vlp.system.errors import UserError

SETTINGS = (*SMALL_CLIP, "callbacks=[checkpoint]", "schedule=constant", "trainer.max_epochs=1", "optimizer.lr=1e-3")
LONGER = ("trainer.max_epochs=2", "force=true")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "scenes"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    return first_epoch(tmp_path_factory.mktemp("finished"), scenes)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of a run that has finished one epoch of five steps."""
    shutil.copytree(finished, tmp_path / "run")
    config = (finished / "config.yaml").read_text().replace(str(finished), str(tmp_path / "run"))
    (tmp_path / "run" / "config.yaml").write_text(config)
    return tmp_path / "run"


def first_epoch(tmp_path: Path, scenes: Path, *overrides: str) -> Path:
    folder = make_run_folder(tmp_path / "run", *SETTINGS, *overrides, data=scenes)
    train_here(folder)
    return folder


def rates(folder: Path) -> dict[int, list[float]]:
    """Of each parameter group, by step."""
    lines = [line for line in logged_lines(folder) if "lr/group_0" in line]
    return {line["step"]: [value for key, value in line.items() if key.startswith("lr/")] for line in lines}


def optimizer_groups(folder: Path) -> list[dict[str, Any]]:
    return load_checkpoint(folder)["optimizer_states"][0]["param_groups"]


def test_learning_rate(folder: Path) -> None:
    assert rates(folder)[4] == pytest.approx([1e-3, 1e-3])  # of weights and of vectors
    resume_here(folder, "optimizer.lr=1e-4", *LONGER)
    assert read_frozen_config(folder / "config.yaml").optimizer.lr == 1e-4
    assert [rate for step in range(5, 10) for rate in rates(folder)[step]] == pytest.approx([1e-4] * 10)
    assert load_checkpoint(folder)["lr_schedulers"][0]["base_lrs"] == [1e-4, 1e-4]
    assert {group["lr"] for group in optimizer_groups(folder)} == {1e-4}


def test_betas_and_weight_decay(folder: Path) -> None:
    resume_here(folder, "optimizer.betas=[0.5,0.6]", "optimizer.weight_decay=0.3", "optimizer.eps=1e-4", *LONGER)
    groups = optimizer_groups(folder)
    assert [(g["betas"], g["weight_decay"], g["eps"]) for g in groups] == [
        ((0.5, 0.6), 0.3, 1e-4), ((0.5, 0.6), 0.0, 1e-4),
    ]  # fmt: skip


def test_settings_that_divide_the_parameters_into_other_groups(folder: Path) -> None:
    """Without weight decay all parameters are one group; with a rate for one tower there are more."""
    before = by_name(folder)
    resume_here(folder, "optimizer.weight_decay=0.0", "optimizer.betas=[0.99999999,0.98]", *LONGER)
    assert len(optimizer_groups(folder)) == 1
    for name, entry in by_name(folder).items():
        torch.testing.assert_close(before[name]["exp_avg"], entry["exp_avg"], rtol=0, atol=1e-6)
    assert {float(entry["step"]) for entry in by_name(folder).values()} == {10.0}
    longer = ("trainer.max_epochs=3", "force=true", "optimizer.betas=[0.9,0.98]")
    resume_here(folder, "optimizer.groups=[{pattern: '^model.text', lr: 5e-5}]", *longer)
    assert sorted({round(rate, 8) for step in range(10, 15) for rate in rates(folder)[step]}) == [5e-5, 1e-3]
    assert {float(entry["step"]) for entry in by_name(folder).values()} == {15.0}


def by_name(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The optimiser's state by the names of parameters."""
    content = load_checkpoint(folder)["optimizer_states"][0]
    groups = content["param_groups"]
    names = {i: name for group in groups for i, name in zip(group["params"], group["param_names"], strict=True)}
    return {names[index]: entry for index, entry in content["state"].items()}


def test_the_schedules_shape_and_warmup(folder: Path) -> None:
    resume_here(folder, "schedule.warmup=9", *LONGER)
    assert [rates(folder)[step][0] for step in range(5, 10)] == pytest.approx(
        [1e-4 * step for step in (6, 7, 8, 9, 10)]
    )


def test_a_part_that_is_no_longer_frozen(tmp_path: Path, scenes: Path) -> None:
    folder = first_epoch(tmp_path, scenes, "freeze=['^model.vision']")
    before = load_checkpoint(folder)["state_dict"]
    resume_here(folder, "freeze=['^model.text']", *LONGER)
    after = load_checkpoint(folder)["state_dict"]
    changed = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"vision", "projection"}
    assert {name.split(".")[1] for name in by_name(folder)} == {"vision", "projection"}


def test_weights_of_objectives_clipping_and_averages(tmp_path: Path, scenes: Path) -> None:
    """None of them is part of a checkpoint."""
    folder = first_epoch(tmp_path, scenes, "callbacks=[checkpoint,ema]", "callbacks.ema.decay=0.5")
    average = load_checkpoint(folder)["state_dict"]
    resume_here(
        folder,
        "callbacks.ema.decay=0.9999999999",
        "objectives.itc.weight=0.5",
        "trainer.gradient_clip_val=1e-12",
        *LONGER,
    )
    content = load_checkpoint(folder)
    names = [name for name, value in average.items() if value.is_floating_point() and "running" not in name]
    assert all(torch.allclose(average[name], content["state_dict"][name], atol=1e-7) for name in names)
    moments = by_name(folder)
    assert (
        max(float(entry["exp_avg"].abs().max()) for entry in moments.values()) < 0.2
    )  # five more steps have hardly any gradient


def test_patience_of_early_stopping(tmp_path: Path, scenes: Path) -> None:
    target = "_target_: lightning.pytorch.callbacks.EarlyStopping"
    stopping = f"+callbacks.stopping={{{target}, monitor: val/scenes/retrieval/rsum, mode: max, patience: 9}}"
    folder = first_epoch(tmp_path, scenes, stopping)
    resume_here(folder, "callbacks.stopping.patience=4", *LONGER)
    (state,) = (value for key, value in load_checkpoint(folder)["callbacks"].items() if key.startswith("EarlyStopping"))
    assert state["patience"] == 4


def test_averages_left_out_continue_from_the_weights(tmp_path: Path, scenes: Path) -> None:
    folder = first_epoch(tmp_path, scenes, "callbacks=[checkpoint,ema]", "callbacks.ema.decay=0.9")
    before = load_checkpoint(folder)["current_model_state"]
    resume_here(folder, "callbacks.ema=null", "optimizer.lr=1e-12", *LONGER)
    after = load_checkpoint(folder)["state_dict"]
    for name in (name for name in after if name.endswith("weight")):
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-9)


def test_another_model_is_refused_in_a_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match=r"tensors have other shapes \(model\.projection"):
        resume_here(folder, "model.projection.width=12", *LONGER)


def test_weights_to_start_from_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint="):
        resume_here(folder, f"checkpoint={folder}")
    assert read_frozen_config(folder / "config.yaml").checkpoint is None


def test_another_monitor_selects_anew(folder: Path) -> None:
    """A figure of at most 1 is not compared with the best sum of recalls."""
    figure = "val/scenes/retrieval/image_to_text_r1"
    resume_here(folder, f"monitor={figure}", f"callbacks.checkpoint.monitor={figure}", *LONGER)
    (state,) = (value for key, value in load_checkpoint(folder)["callbacks"].items() if key.startswith("RunCheckpoint"))
    assert state["monitor"] == figure
    assert state["best_score"] <= 100
