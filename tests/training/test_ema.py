"""Averaged weights in a checkpoint: both kinds are complete, and a run that has lost one of them does not resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.runs import SMALL_CLIP, finish_run, load_checkpoint, make_run_folder
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
