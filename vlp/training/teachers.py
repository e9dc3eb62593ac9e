"""The run's `teachers={NAME: CHECKPOINT}`: read by the one loader of checkpoints, and checked against what the objectives ask for,
before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlp.checkpoints.place import weights_sha256
from vlp.models.teacher import Teacher
from vlp.objectives.distill_feature import Distillation
from vlp.predictor import load
from vlp.system.errors import UserError


def load_teachers(paths: Mapping[str, str]) -> dict[str, Teacher]:
    """paths: of checkpoints that `vlp.load` reads, by name.  Raises FileNotFoundError or UserError that name the setting."""
    teachers = {}
    for name, path in paths.items():
        place = Path(path).expanduser()
        if not place.exists():
            raise FileNotFoundError(f"teachers.{name}={path}: there is no such checkpoint")
        try:
            with torch.device("cpu"):  # also while a model is only counted
                predictor = load(place)
        except UserError as error:
            raise UserError(f"teachers.{name}={path}: {error}") from error
        teachers[name] = Teacher(
            name=name, model=predictor.model, transform=predictor.transform, tokenizer=predictor.require_tokenizer,
            path=str(path), sha256=weights_sha256(place),
        )  # fmt: skip
    return teachers


def asked_of_teachers(teachers: Mapping[str, Teacher], objectives: Mapping[str, Any]) -> dict[str, dict[str, set[str]]]:
    """The sides that each teacher embeds, by name and data source; the source "" stands for all of them.

    objectives: those that are trained.  Raises UserError for a teacher that cannot, and for one that no objective reads."""
    asked: dict[str, dict[str, set[str]]] = {name: {} for name in teachers}
    for objective in objectives.values():
        if not isinstance(objective, Distillation):
            continue
        for name in objective.checkpoint_teachers(list(teachers)):
            teachers[name].check(objective.sides)
            for source in objective.sources or ("",):
                asked[name].setdefault(source, set()).update(objective.sides)
    idle = next((name for name, sides in asked.items() if not sides), None)
    if idle is not None:
        raise UserError(
            f"teachers.{idle} is read by no objective: add 'objective=[…,distill_feature]' or distill_affinity, or leave it out"
        )
    return asked
