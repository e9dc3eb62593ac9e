"""Lightning's counters of a checkpoint, brought into the one state from which it continues exactly: between two steps.

Lightning 2.6 has a rule for each hook in which a checkpoint may be written; several of them lose an epoch, validate twice or
number the log's steps wrongly. A checkpoint that is loaded here counts every batch that was begun as either done or not
begun, and one of an epoch's last batch counts as one of the next epoch's beginning.
"""

from __future__ import annotations

from typing import Any

SPANS = ("total", "current")


def count_finished_epochs(loops: dict[str, Any]) -> int:
    """Whole epochs behind a checkpoint's counters, wherever it was written."""
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]["current"]
    counted = epochs["processed"] == epochs["ready"]  # also an epoch that max_steps cut short
    begun = batches["current"]["processed"] > 0
    if counted and begun and not batches["is_last_batch"]:
        return epochs["processed"] - 1
    return epochs["processed"] + int(_epoch_ended(batches) and not counted)


def move_between_steps(checkpoint: dict[str, Any]) -> None:
    """For `on_load_checkpoint`; changes checkpoint["loops"] in place."""
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    ended = _epoch_ended(batches)
    done = count_finished_epochs(loops)
    batches["is_last_batch"] = False
    for span in SPANS:
        _level_counters(batches[span], batches[span]["processed"])
        validation = loops["epoch_loop.val_loop.batch_progress"][span]
        _level_counters(validation, validation["completed"])
    if ended:
        _level_counters(batches["current"], 0)
    for span in SPANS:  # the epoch that continues, or the next one, is begun
        epochs[span] |= {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}


def _epoch_ended(batches: dict[str, Any]) -> bool:
    """Whether the epoch's last batch was trained on."""
    return batches["is_last_batch"] and batches["current"]["processed"] == batches["current"]["ready"]


def _level_counters(progress: dict[str, int], count: int) -> None:
    for key in progress:
        progress[key] = count
