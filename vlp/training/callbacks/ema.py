"""Lightning's moving average of the weights. Buffers are copied, not averaged: batch-norm counters and other integers
would be spoiled by an average."""

from __future__ import annotations

from lightning.pytorch.callbacks import EMAWeightAveraging


def ema(*, decay: float = 0.999, start: int = 0) -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=decay, use_buffers=False, update_starting_at_step=start)
