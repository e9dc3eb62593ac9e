"""Lightning's moving average of the weights. Buffers are copied, not averaged: batch-norm counters and other integers
would be spoiled by an average."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from vlp.system.errors import UserError


class EMA(WeightAveraging):
    """p̄ ← decay p̄ + (1 − decay) p after each optimiser step after number `start`; up to it, p̄ = p.

    The averaged weights stay until tasks have computed their figures, which Lightning does after a callback's epoch end.
    """

    def __init__(self, *, decay: float, start: int) -> None:
        if not 0 <= decay < 1:
            raise UserError(
                f"callbacks.ema.decay={decay}: the weight of the old average must be 0 or more, and less than 1"
            )
        if start < 0:
            raise UserError(f"callbacks.ema.start={start}: give a number of optimizer steps, 0 or more")
        self.decay, self.start = decay, start
        self._averages = False  # at the current step
        super().__init__(use_buffers=False, avg_fn=self._average)

    def _average(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        # the average of equal numbers is not quite equal, and frozen weights must not move
        if not self._averages:
            return current
        return torch.where(average == current, average, self.decay * average + (1 - self.decay) * current)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Before `start` too, where the average follows the weights: else validations would measure the initial ones."""
        self._averages = step_idx is not None and step_idx > self.start
        return step_idx is not None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pass

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run with averaged weights resumes with both kinds; one without begins to average its own."""
        lost = [key for key in ("current_model_state", "averaging_state") if key not in checkpoint]
        averaged = (checkpoint.get("config") or {}).get("callbacks", {}).get("ema") or len(lost) == 1
        if averaged and lost:
            raise UserError(
                f"the checkpoint lacks {' and '.join(lost)} of its moving average: resume from another one, or start a new run "
                "from its weights with checkpoint=PATH"
            )
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def ema(*, decay: float = 0.999, start: int = 0) -> EMA:
    return EMA(decay=decay, start=start)
