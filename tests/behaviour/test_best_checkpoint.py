"""Which figure selects best.ckpt: never NaN, and the first of equal figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vlp.training.callbacks.checkpoint import RunCheckpoint
from vlp.training.lifecycle.checkpoint_files import AtomicCheckpointIO

FIGURES = [math.nan, 2.0, math.nan, 2.0, 3.0, 1.0, 3.0, 1.0, math.nan]


class PlannedFigures(L.LightningModule):
    """Each validation logs the next one of the given figures."""

    def __init__(self, figures: list[float]) -> None:
        super().__init__()
        self.figures, self.layer = figures, torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("figure", self.figures[self.current_epoch])
        self.log("val/figure", 0.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveRecorder(RunCheckpoint):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.saved_epochs: list[int] = []

    def save(self, trainer: L.Trainer, *, best: bool = False, kept: bool = False) -> bool:
        if best:
            self.saved_epochs.append(trainer.current_epoch)
        return super().save(trainer, best=best, kept=kept)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "figures", "expected"),
    [("max", FIGURES, [1, 4]), ("min", FIGURES, [1, 5]), ("max", [math.nan, math.nan], [])],
)
def test_best_is_never_nan_and_the_first_of_equal_figures(
    mode: str, figures: list[float], expected: list[int], tmp_path: Path
) -> None:
    callback = fit(figures, tmp_path, monitor="figure", mode=mode)
    assert callback.saved_epochs == expected
    assert (tmp_path / "checkpoints" / "best.ckpt").exists() == bool(expected)


@pytest.mark.filterwarnings("ignore")
def test_a_figure_that_is_not_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="monitor=val/other was not measured: choose one of val/figure"):
        fit([1.0], tmp_path, monitor="val/other", mode="max")


def fit(figures: list[float], folder: Path, **settings: str) -> SaveRecorder:
    callback = SaveRecorder(folder=folder / "checkpoints", **settings)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=len(figures), callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    batches = DataLoader(torch.ones(2, 1), batch_size=2)
    trainer.fit(PlannedFigures(figures), batches, batches)
    return callback
