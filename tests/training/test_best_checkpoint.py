"""Which figure best.ckpt is chosen by (RELIABILITY B.6, 67)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vlp.training.callbacks.checkpoint import RunCheckpoint
from vlp.training.checkpoint_files import WholeFiles


class Measured(L.LightningModule):
    """Validation gives a planned figure after each epoch."""

    def __init__(self, figures: list[float]) -> None:
        super().__init__()
        self.figures, self.layer = figures, torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("figure", self.figures[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Noting(RunCheckpoint):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.chosen: list[int] = []

    def save(self, trainer: L.Trainer, *, best: bool = False) -> None:
        super().save(trainer, best=best)
        if best:
            self.chosen.append(trainer.current_epoch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mode", "monitor", "expected"), [("max", "figure", [1, 4]), ("min", "figure", [1, 5]), ("max", "other", [])]
)
def test_no_number_is_never_the_best_and_of_equal_ones_the_first_is(
    mode: str, monitor: str, expected: list[int], tmp_path: Path
) -> None:
    figures = [math.nan, 2.0, math.nan, 2.0, 3.0, 1.0, 3.0, 1.0, math.nan]
    callback = Noting(folder=tmp_path / "checkpoints", monitor=monitor, mode=mode)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=len(figures), callbacks=[callback], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
        plugins=[WholeFiles()],
    )  # fmt: skip
    batches = DataLoader(torch.ones(2, 1), batch_size=2)
    trainer.fit(Measured(figures), batches, batches)
    assert callback.chosen == expected
    assert (tmp_path / "checkpoints" / "best.ckpt").exists() == bool(expected)
