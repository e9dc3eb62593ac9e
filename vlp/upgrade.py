"""Old names in configs that were written by an earlier version, or that somebody types from habit, become today's.

A run folder, a sweep, a checkpoint and a user's own YAML name classes by their path and settings by their key. One function
maps them all, before a config is compared, checked or built, so that nothing behind it knows an old name. Names in stored
state (keys of a state_dict, callbacks' class names, kinds of tokenizers, names of results) never change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TARGETS = {
    **{
        f"vlp.data.{module}": f"vlp.datasets.{module}"
        for module in (
            "class_folders", "coco", "flickr", "karpathy", "scenes", "shards", "table", "visual_genome", "vqa_v2",
        )
    },
    "vlp.data.flat_json.FlatJSON": "vlp.datasets.salesforce_json.SalesforceJson",
    "vlp.models.vision.side_by_side.SideBySide": "vlp.models.vision.concat.ConcatTower",
}  # fmt: skip
_KEYS = {
    "callbacks.checkpoint.full_disk": "callbacks.checkpoint.on_disk_full",
    "objectives.mlm.draws": "objectives.mlm.num_maskings",
    "objectives.mlm.rarity": "objectives.mlm.rare_word_exponent",
    "objectives.mlm.share": "objectives.mlm.mask_prob",
    "schedule.minimum": "schedule.min_lr_ratio",
    "sweep.grace": "sweep.grace_period_s",
    "sweep.minutes": "sweep.time_limit_min",
    "sweep.on": "sweep.executor",
    "sweep.slurm.minutes": "sweep.slurm.time_limit_min",
    "tasks.retrieval.mix": "tasks.retrieval.itc_weights",
}
_VALUES = {("sweep.executor", "here"): "local"}
_OPTIONS = {("data", "flat_json"): "salesforce_json"}  # of a config group
_NULLS = {  # arguments that were null and now are a group of keys
    ("vlp.datasets.shards.Shards", "splits"): {"train": None, "val": None, "test": None},
}
_TARGET = re.compile(r"^(" + "|".join(map(re.escape, sorted(_TARGETS, key=len, reverse=True))) + r")(?=\.|$)")


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config, resolved or not, with today's targets, keys and values; an old key gives way to today's where a config
    has both."""
    return _upgraded(config, "")


def _upgraded(node: Any, path: str) -> Any:
    if isinstance(node, (list, tuple)):
        return [_upgraded(item, path) for item in node]
    if not isinstance(node, Mapping):
        return _VALUES.get((path, node), node) if isinstance(node, str) else node
    result: dict[str, Any] = {}
    for key, value in node.items():
        place = f"{path}.{key}" if path else str(key)
        renamed = _KEYS.get(place)
        if renamed is not None and renamed.rpartition(".")[2] in node:
            continue
        name = str(key) if renamed is None else renamed.rpartition(".")[2]  # numbers are text in a frozen config
        result[name] = upgrade_target(value) if key == "_target_" else _upgraded(value, renamed or place)
    for (target, argument), group in _NULLS.items():
        if result.get("_target_") == target and argument in result and result[argument] is None:
            result[argument] = dict(group)
    return result


def renamed_keys(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The old dotted keys that stand in a plain config, each with today's."""
    return [(old, new) for old, new in _KEYS.items() if _has(config, old)]


def _has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return True


def upgrade_target(target: Any) -> Any:
    """Today's path of a class that a config names by an old one."""
    return _TARGET.sub(lambda found: _TARGETS[found[1]], target) if isinstance(target, str) else target


def upgrade_override(line: str) -> tuple[str, str | None]:
    """An override of the command line with today's key, option and value, and what to write instead; None = it is today's."""
    key, equals, value = line.partition("=")
    sign, name = re.match(r"([+~]*)(.*)", key).groups()  # type: ignore[union-attr]  # it always matches
    group = name.partition("@")[0]
    new_key = _KEYS.get(name, name)
    new_value = _OPTIONS.get((group, value)) or _VALUES.get((new_key, value)) or upgrade_target(value)
    new = f"{sign}{new_key}{equals}{new_value}"
    return new, None if new == line else f"{line}: this was renamed; write {new}"
