"""Settings of objectives and tasks that YAML leaves open (null) because other parts decide them: widths of the model, class
names of the data. They are filled in before the objectives are built, and stored in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.models.levels import level_widths
from vlp.models.split_features import feature_width
from vlp.models.teacher import Teacher
from vlp.models.vlm import VisionLanguageModel, states_width
from vlp.system.errors import UserError

NAMES = ("class_names", "segment_names")  # of tasks, and of the data module


def fill_open_settings(
    nodes: dict[str, Any],
    model: VisionLanguageModel,
    data: DataModule | Mixture,
    teachers: Mapping[str, Teacher] | None = None,
) -> None:
    """In place, of each objective and task by name:

    states_width: of the vision tower's states.  embed_width: of the joint space, 0 where the model has none.
    feature_width: of `features`.  level_widths: channels of the inner maps named in `levels`.
    teacher_widths: of the joint spaces of the run's teachers, by name.
    class_names, segment_names: the data's, which are read for it.
    """
    for task, node in nodes.items():
        if not isinstance(node, dict):
            continue
        if node.get("states_width", 0) is None:
            node["states_width"] = states_width(model.part("vision"))
        if node.get("embed_width", 0) is None:
            node["embed_width"] = 0 if model.projection is None else model.projection.width
        if node.get("feature_width", 0) is None:
            node["feature_width"] = feature_width(model, node["features"])
        if node.get("level_widths", 0) is None:
            node["level_widths"] = level_widths(model.part("vision"), node.get("levels") or ())
        if node.get("teacher_widths", 0) is None:
            node["teacher_widths"] = {name: teacher.width for name, teacher in (teachers or {}).items()}
        for name in NAMES:
            if node.get(name, 0) is None:
                node[name] = list(_read_names(data, name, task))


def _read_names(data: DataModule | Mixture, name: str, task: str) -> tuple[str, ...]:
    if getattr(data, name, None) is None:
        data.prepare_data()
        data.setup("fit")
    names = getattr(data, name, None)
    if not names:
        raise UserError(f"{task} has no classes: {data.name} has no {name}; list them in tasks.{task}.{name}=[…]")
    return tuple(names)
