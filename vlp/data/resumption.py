"""What Lightning counts, and what was really trained on."""

from __future__ import annotations

from typing import Any

import lightning as L


def unused_batches(trainer: L.Trainer | None) -> int:
    """1 after an exception in the middle of a step, whose batch was handed out and not used; else 0."""
    if trainer is None:
        return 0
    # Lightning's own counts are not the position, for they are one too low after a second resumption
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.ready - progress.processed  # type: ignore[attr-defined]


def finish_epoch(checkpoint: dict[str, Any]) -> None:
    """For `on_load_checkpoint`: a checkpoint of an epoch's last batch becomes one of the epoch's end.

    Lightning 2.6 resumes from the former without counting the epoch that follows, and what that run saves makes a
    second resumption train an epoch twice.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    if batches["is_last_batch"] and epochs["current"]["processed"] == epochs["current"]["ready"] - 1:
        for span in ("total", "current"):
            batches[span]["completed"] = batches[span]["processed"]
            epochs[span]["processed"] += 1
