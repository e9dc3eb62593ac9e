"""checkpoints/best.ckpt and checkpoints/last.ckpt of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


def checkpoint(*, folder: Path, config: dict[str, Any], every_n_train_steps: int | None = None) -> ModelCheckpoint:
    """best: highest `monitor`, whose task must be among the config's. last: written with it and at the end."""
    monitor = config["monitor"]
    task = monitor.split("/")[2] if monitor.count("/") >= 3 else None
    if task not in config["tasks"]:
        raise ValueError(
            f"monitor={monitor} is a figure of the task {task!r}, which this run does not measure "
            f"(task=[{', '.join(config['tasks'])}]): set monitor=val/<source>/<task>/<metric>"
        )
    return ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor=monitor,
        mode="max",
        save_last=True,
        every_n_train_steps=every_n_train_steps,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
