"""Averaged weights in a checkpoint: both kinds are complete, and a run that has lost one of them does not resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.runs import SMALL_CLIP, finish_run, load_checkpoint, make_run_folder, train_here
from vlp.system.errors import UserError
from vlp.training.callbacks.ema import ema

EMA = ("callbacks=[checkpoint,progress,ema]", "callbacks.ema.decay=0.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    run = make_run_folder(folder / "run", *SMALL_CLIP, *EMA, "trainer.max_epochs=1", data=folder / "scenes")
    finish_run(run)
    return run


def test_both_kinds_of_weights_are_complete(trained: Path) -> None:
    content = load_checkpoint(trained)
    average, current = content["state_dict"], content["current_model_state"]
    assert average.keys() == current.keys()
    assert content["averaging_state"]["n_averaged"] > 1
    floats = [name for name, value in current.items() if value.is_floating_point() and "running" not in name]
    assert not all(torch.equal(average[name], current[name]) for name in floats)
    assert content["config"]["callbacks"]["ema"]["decay"] == 0.5


@pytest.mark.parametrize(
    "lost", [["current_model_state"], ["averaging_state"], ["current_model_state", "averaging_state"]]
)
def test_a_lost_kind_is_an_error(trained: Path, tmp_path: Path, lost: list[str]) -> None:
    content = load_checkpoint(trained)
    for key in lost:
        del content[key]
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "checkpoints").mkdir()
    torch.save(content, run / "checkpoints" / "last.ckpt")
    printed = finish_run(run, code=2)
    assert f"the checkpoint lacks {' and '.join(lost)} of its moving average" in printed


def test_a_run_without_averages_may_begin_them() -> None:
    content: dict[str, Any] = {"config": {"callbacks": {"checkpoint": {}}}, "state_dict": {}}
    with pytest.warns(UserWarning, match="outside the 'fit' stage"):  # Lightning's, as there is no fit here
        ema().on_load_checkpoint(L.Trainer(logger=False, accelerator="cpu"), L.LightningModule(), content)


@pytest.mark.parametrize("start", [50, 3])
def test_before_the_first_average_the_current_weights_are_measured(tmp_path: Path, start: int) -> None:
    """Of five steps. Not the initial weights, and no average that has weights of the steps before `start`."""
    settings = (*SMALL_CLIP, *EMA, f"callbacks.ema.start={start}", "callbacks.checkpoint.save_top_k=-1")
    run = make_run_folder(tmp_path / "run", *settings, "trainer.max_epochs=1", data=tmp_path / "scenes")
    train_here(run)
    content = load_checkpoint(run)
    average, current = content["state_dict"], content["current_model_state"]
    differing = [name for name, value in current.items() if not torch.equal(average[name], value)]
    assert bool(differing) == (start == 3)
    assert all(torch.equal(average[name], value) for name, value in current.items() if "running" in name)


def test_the_average_begins_with_the_weights_of_its_first_step() -> None:
    callback, average = ema(decay=0.5, start=2), torch.zeros(1)
    for step, weights in enumerate([1.0, 2.0, 4.0, 8.0]):
        assert callback.should_update(step_idx=step)
        average = callback._average(average, torch.tensor([weights]), step)
    assert average.item() == 0.5 * 4.0 + 0.5 * 8.0
    assert not callback.should_update(epoch_idx=0)


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": -0.1}, {"start": -3}])
def test_settings_without_an_average_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"callbacks\.ema\.{next(iter(settings))}="):
        ema(**settings)
