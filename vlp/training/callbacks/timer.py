"""The time of training, of all processes that continued with a run, and its limit `trainer.max_time`."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer


class RunTimer(Timer):
    """Lightning's, but it stops between two optimiser steps: gradients of accumulated batches are in no checkpoint."""

    @property
    def state_key(self) -> str:
        return Timer.__qualname__  # as earlier checkpoints have it

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
