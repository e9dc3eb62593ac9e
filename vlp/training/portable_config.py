"""The config as a checkpoint keeps it, from which the file alone rebuilds the model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from vlp.models.vlm import VisionLanguageModel
from vlp.tasks.base import Task


def portable_config(
    config: Mapping[str, Any], model: VisionLanguageModel, tasks: Mapping[str, Task], vocabulary_size: int
) -> dict[str, Any]:
    """The config with each backbone and task described by its own architecture instead of the hub name or file it came from,
    and with the size of the vocabulary where that was left to the tokenizer."""
    if "model" not in config:
        return dict(config)
    result = deepcopy(dict(config))
    for name in ("vision", "text"):
        tower: Any = getattr(model, name)
        if hasattr(tower, "architecture"):
            result["model"][name] |= tower.architecture()
    task: Any
    for name, task in tasks.items():
        if hasattr(task, "architecture") and name in result.get("tasks", {}):
            result["tasks"][name] |= task.architecture()
    for part in ("model", "objectives", "tasks"):
        set_vocabulary_size(result.get(part), vocabulary_size)
    return result


def set_vocabulary_size(node: Any, size: int) -> None:
    """Where it was left open: tokenizers of a fixed vocabulary know their size once they are built."""
    if isinstance(node, dict):
        if node.get("vocabulary_size", 0) is None:
            node["vocabulary_size"] = size
        for inner in node.values():
            set_vocabulary_size(inner, size)
