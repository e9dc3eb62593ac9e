"""checkpoints/best.ckpt and checkpoints/last.ckpt of a run folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


def checkpoint(*, folder: str | Path, monitor: str, every_n_train_steps: int | None = None) -> ModelCheckpoint:
    """best: the highest `monitor`.  last: written with it, and at the end."""
    return ModelCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=monitor,
        mode="max",
        save_last=True,
        every_n_train_steps=every_n_train_steps,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
