"""Which figure best.ckpt is chosen by: never one that is not a number, and of equal ones the first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vlp.training.callbacks.checkpoint import RunCheckpoint
from vlp.training.lifecycle.checkpoint_files import WholeFiles

FIGURES = [math.nan, 2.0, math.nan, 2.0, 3.0, 1.0, 3.0, 1.0, math.nan]


class Measured(L.LightningModule):
    """Validation gives a planned figure after each epoch."""

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


class Noting(RunCheckpoint):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.chosen: list[int] = []

    def save(self, trainer: L.Trainer, *, best: bool = False) -> bool:
        if best:
            self.chosen.append(trainer.current_epoch)
        return super().save(trainer, best=best)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "figures", "expected"),
    [("max", FIGURES, [1, 4]), ("min", FIGURES, [1, 5]), ("max", [math.nan, math.nan], [])],
)
def test_no_number_is_never_the_best_and_of_equal_ones_the_first_is(
    mode: str, figures: list[float], expected: list[int], tmp_path: Path
) -> None:
    callback = fit(figures, tmp_path, monitor="figure", mode=mode)
    assert callback.chosen == expected
    assert (tmp_path / "checkpoints" / "best.ckpt").exists() == bool(expected)


@pytest.mark.filterwarnings("ignore")
def test_a_figure_that_is_not_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="monitor=val/other was not measured: choose one of val/figure"):
        fit([1.0], tmp_path, monitor="val/other", mode="max")


def fit(figures: list[float], folder: Path, **settings: str) -> Noting:
    callback = Noting(folder=folder / "checkpoints", **settings)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=len(figures), callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
        plugins=[WholeFiles()],
    )  # fmt: skip
    batches = DataLoader(torch.ones(2, 1), batch_size=2)
    trainer.fit(Measured(figures), batches, batches)
    return callback
