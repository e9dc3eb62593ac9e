"""The number of steps, against what Lightning does with the same settings."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vlp.launch.config.layout import ENDLESS, optimizer_steps

BATCHES = 7


class One(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(BATCHES))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 2},
        {"max_epochs": 3, "max_steps": 9},
        {"max_epochs": -1, "max_steps": 9},
        {"max_steps": 9},
        {"max_epochs": 2, "max_steps": 90, "limit_train_batches": 3},
        {"max_epochs": 2, "limit_train_batches": 0.5},
        {"max_epochs": 2, "max_steps": -1},
        {"max_epochs": 0},
        {"max_steps": 0, "max_epochs": 2},
    ],
)
def test_as_lightning_counts(settings: dict[str, Any]) -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(One())
    assert trainer.global_step == optimizer_steps(
        BATCHES,
        max_epochs=settings.get("max_epochs"),
        max_steps=settings.get("max_steps"),
        limit=settings.get("limit_train_batches"),
        accumulated=settings.get("accumulate_grad_batches", 1),
    )


def test_a_run_without_an_end() -> None:
    count = {"limit": None, "accumulated": 1}
    assert optimizer_steps(BATCHES, max_epochs=-1, max_steps=-1, **count) == ENDLESS  # type: ignore[arg-type]
    assert optimizer_steps(BATCHES, max_epochs=None, max_steps=None, **count) == 1000 * BATCHES  # type: ignore[arg-type]
