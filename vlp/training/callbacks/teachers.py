"""Gives the data what the run's teachers make of them, before the first batch, and records which teachers these were.

A teacher's weights are in no checkpoint of the run. Its path and the sha256 of its file are, and a run that continues with another
one, such as the same run fine-tuned meanwhile, is refused: it would not be the run that it says it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from vlp.models.teacher import Teacher
from vlp.system.errors import UserError
from vlp.training.teachers import asked_of_teachers


class Teachers(Callback):
    """folder: where embeddings are kept for later runs; None = nowhere."""

    def __init__(self, teachers: Mapping[str, Teacher], *, folder: str | Path | None) -> None:
        self.teachers, self.folder = dict(teachers), folder

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            asked_of_teachers(self.teachers, pl_module.trained)  # before the data are read

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name, asked in asked_of_teachers(self.teachers, pl_module.trained).items():
            for source_name, source in data.sources.items():
                sides = asked.get("", set()) | asked.get(source_name, set())
                if sides and name not in source.teacher_embeddings:
                    source.teacher_embeddings[name] = self.teachers[name].embed_training_data(
                        source, sorted(sides), device=pl_module.device, folder=self.folder
                    )

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["teachers"] = self.record()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if not pl_module.config.get("force"):
            self.refuse_others(checkpoint.get("teachers", {}))

    def refuse_others(self, began: Mapping[str, Mapping[str, str]]) -> None:
        """began: the record of the run that is continued.  Raises UserError where a teacher is not the one that it began with."""
        if began.keys() != self.teachers.keys():
            raise UserError(
                f"this run began with the teachers {', '.join(began) or 'none'} and now has {', '.join(self.teachers)}: "
                "set the same teachers={…}, start a new run, or resume anyway with force=true"
            )
        for name, before in began.items():
            teacher = self.teachers[name]
            if teacher.sha256 != before["sha256"]:
                raise UserError(
                    f"teachers.{name}={teacher.path} is not the checkpoint that this run began with, {before['path']} of sha256 "
                    f"{before['sha256'][:12]}… (now {teacher.sha256[:12]}…): put that one back, start a new run, or resume anyway "
                    "with force=true"
                )

    def record(self) -> dict[str, dict[str, str]]:
        return {name: {"path": teacher.path, "sha256": teacher.sha256} for name, teacher in self.teachers.items()}
