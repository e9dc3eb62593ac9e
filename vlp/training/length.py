"""How many optimiser steps a run has, from plain values: Lightning's own estimate creates loaders too early."""

from __future__ import annotations

ENDLESS = 2**62  # until something stops it


def total_steps(
    per_epoch: int, *, max_epochs: int | None, max_steps: int | None, limit: int | float | None, accumulated: int
) -> int:
    """per_epoch: batches.  The others are Lightning's settings of the same names: -1 = no end by this, and neither of both
    given = 1000 epochs; limit: of batches of an epoch, a number or a share; accumulated: batches to a step."""
    if limit is not None:
        per_epoch = min(per_epoch, limit) if isinstance(limit, int) else int(per_epoch * limit)
    most = ENDLESS if max_steps is None or max_steps < 0 else max_steps
    if max_epochs is None:
        max_epochs = 1000 if most == ENDLESS else -1
    steps = ENDLESS if max_epochs < 0 else max(1, -(-per_epoch // accumulated)) * max_epochs
    return min(steps, most)
