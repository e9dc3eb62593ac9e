"""A run that ended before its last step continues once a setting lifts what ended it, and else says what that was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.runs import SMALL_CLIP, load_checkpoint, make_run_folder, resume_here, train_here
from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.folder import read_frozen_config
from vlp.system.errors import UserError
from vlp.training.lifecycle.nonfinite import NotFinite

FIGURE = "val/scenes/retrieval/rsum"
SETTINGS = (*SMALL_CLIP, "callbacks=[checkpoint]", "schedule=constant", "trainer.max_epochs=4")
TARGET = "_target_: lightning.pytorch.callbacks.EarlyStopping"


def stopping(**settings: object) -> str:
    """As a new callback; by default, nothing is an improvement."""
    values = {"monitor": FIGURE, "mode": "max", "patience": 1, "min_delta": 1e6, **settings}
    return f"+callbacks.stopping={{{TARGET}, {', '.join(f'{key}: {value}' for key, value in values.items())}}}"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "scenes"


def stopped_run(tmp_path: Path, scenes: Path, *overrides: str) -> Path:
    folder = make_run_folder(tmp_path / "run", *SETTINGS, *overrides, data=scenes)
    train_here(folder)
    return folder


def epochs(folder: Path) -> int:
    return int(load_checkpoint(folder)["epoch"])


def test_early_stopping(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stopped_run(tmp_path, scenes, stopping())
    assert epochs(folder) == 2
    assert json.loads((folder / "checkpoints" / "last.ckpt.json").read_text())["ended"]["key"] == "callbacks.stopping"
    with pytest.raises(
        ConfigError, match=r"ended by early stopping \(callbacks\.stopping\): .* did not improve .*patience=2 or more"
    ):
        resume_here(folder, "trainer.max_epochs=5", "force=true")
    assert read_frozen_config(folder / "config.yaml").trainer.max_epochs == 4  # not recorded, as it was not used
    capsys.readouterr()
    resume_here(folder)
    assert "training ended at step 10 by early stopping" in capsys.readouterr().err
    assert epochs(folder) == 2
    resume_here(folder, "trainer.max_epochs=5", "callbacks.stopping.patience=3", "force=true")
    assert epochs(folder) == 4


def test_without_the_callback_it_ends_as_if_it_had_never_stopped(tmp_path: Path, scenes: Path) -> None:
    folder = stopped_run(tmp_path / "stopped", scenes, stopping())
    resume_here(folder, "callbacks.stopping=null")
    straight = stopped_run(tmp_path / "straight", scenes)
    first, second = (load_checkpoint(run)["state_dict"] for run in (folder, straight))
    assert epochs(folder) == 4
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_threshold(tmp_path: Path, scenes: Path) -> None:
    folder = stopped_run(tmp_path, scenes, stopping(stopping_threshold=0.5, patience=9))
    assert epochs(folder) == 1
    with pytest.raises(ConfigError, match=r"reached stopping_threshold=0\.5"):
        resume_here(folder, "trainer.max_epochs=5", "force=true")
    resume_here(folder, "callbacks.stopping.stopping_threshold=1e9", "force=true")
    assert epochs(folder) == 4


def test_a_changed_config_that_the_launcher_did_not_see(tmp_path: Path, scenes: Path) -> None:
    folder = stopped_run(tmp_path, scenes, stopping())
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("max_epochs: 4", "max_epochs: 6").replace("force: false", "force: true"))
    with pytest.raises(UserError, match="training ended at step 10 by early stopping"):
        train_here(folder)


def test_another_callback_that_stops(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = "+callbacks.seen={_target_: tests.training.seen.Seen, stop_at: 5}"
    folder = stopped_run(tmp_path, scenes, seen)
    assert epochs(folder) == 1
    capsys.readouterr()
    resume_here(folder)
    assert "training ended at step 5 by a callback" in capsys.readouterr().err
    resume_here(folder, "trainer.max_epochs=3", "force=true")
    assert epochs(folder) == 3


def test_the_last_epoch_and_a_divergence(tmp_path: Path, scenes: Path) -> None:
    """More epochs continue a finished run; a run whose loss was not finite continues from the checkpoint before."""
    folder = stopped_run(tmp_path, scenes, "trainer.max_epochs=1")
    with pytest.raises(NotFinite):
        resume_here(folder, "trainer.max_epochs=2", "optimizer.lr=1e30", "force=true")
    resume_here(folder, "optimizer.lr=1e-3", "force=true")
    assert epochs(folder) == 2


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.max_steps=3", "the run ends before its first validation .trainer.max_steps=3, 5 steps in an epoch"),
        ("trainer.limit_val_batches=0", "ends before its first validation"),
        (
            "++callbacks.stopping.monitor=val/scenes/retreival/rsum",
            "monitor=val/scenes/retreival/rsum is not a figure of this run",
        ),
        ("++callbacks.stopping.monitor=val/scene/retrieval/rsum", "whose sources are scenes"),
    ],
)
def test_early_stopping_without_its_figure(tmp_path: Path, scenes: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^early stopping.*{sentence}"):
        stopped_run(tmp_path, scenes, stopping(), override)
