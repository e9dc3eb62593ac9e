"""Lightning's moving average of the weights. Buffers are copied, not averaged: batch-norm counters and other integers
would be spoiled by an average."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """The averaged weights stay until tasks have computed their figures, which Lightning does after a callback's epoch end."""

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pass

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def ema(*, decay: float = 0.999, start: int = 0) -> EMA:
    return EMA(decay=decay, use_buffers=False, update_starting_at_step=start)
