"""What Lightning counts, and what was really trained on."""

from __future__ import annotations

import lightning as L


def unused_batches(trainer: L.Trainer | None) -> int:
    """1 after an exception in the middle of a step, whose batch was handed out and not used; else 0."""
    if trainer is None:
        return 0
    # Lightning's own counts are not the position, for they are one too low after a second resumption
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.ready - progress.processed  # type: ignore[attr-defined]
