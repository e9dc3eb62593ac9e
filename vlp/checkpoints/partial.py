"""Weights that fit a model in part: what has the same name and shape in a part of the same class is taken, all else is listed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.keys import refuse_unusable_values
from vlp.system.errors import UserError
from vlp.upgrade import upgrade_target

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def load_matching(model: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Loads, as float32, what fits; returns what was taken, what of the file was left and what of the model starts from
    scratch, in sentences.  Raises UserError where nothing fits."""
    expected, parts = model.state_dict(), dict(model.named_children())
    taken, left = {}, []
    others = {name: text for name in parts if (text := _other_class(checkpoint, name, parts[name])) is not None}
    for key, value in checkpoint.state.items():
        if key.partition(".")[0] in others:
            continue
        if key in expected and expected[key].shape == value.shape:
            taken[key] = value
        else:
            shapes = f" {tuple(value.shape)} (the model: {tuple(expected[key].shape)})" if key in expected else ""
            left.append(f"{key}{shapes}")
    if not taken:
        raise UserError("nothing in it has the name and shape of a tensor of the model, in a part of the same class")
    refuse_unusable_values(taken, expected)
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in taken.items()}, strict=False)
    new = [key for key in expected if key not in taken]
    notes = [f"took {len(taken)} of the model's {len(expected)} tensors: {collapse_numbers(taken)}"]
    notes += [f"left {sentence}" for sentence in others.values()]
    notes += [f"left {len(left)} tensors that the model has no equal of: {collapse_numbers(left)}"] if left else []
    return notes + (
        [f"does not set {len(new)} tensors, which start from scratch: {collapse_numbers(new)}"] if new else []
    )


def _other_class(checkpoint: Checkpoint, name: str, part: nn.Module) -> str | None:
    """Names of parameters say nothing across classes: a block of CLIP's text tower has those of a block of BERT."""
    node: Any = checkpoint.config["model"].get(name) or {}
    theirs, ours = upgrade_target(node.get("_target_", "")), f"{type(part).__module__}.{type(part).__qualname__}"
    count = sum(key.startswith(f"{name}.") for key in checkpoint.state)
    if not count or theirs == ours:
        return None
    kinds = f"a {theirs.rpartition('.')[2]}, the model's is a {type(part).__name__}"
    return f"its {name} ({count} tensors): it is {kinds}"


def collapse_numbers(keys: Iterable[str]) -> str:
    """Names that differ in numbers only as one: blocks.0.weight, blocks.1.weight → blocks.{0-1}.weight."""
    groups: dict[str, list[list[int]]] = {}
    for key in keys:
        groups.setdefault(_NUMBER.sub("{}", key), []).append([int(number) for number in _NUMBER.findall(key)])
    names = []
    for pattern, numbers in groups.items():
        ranges = [_range(sorted(set(column))) for column in zip(*numbers, strict=True)]
        names.append(
            pattern.replace("{}", "{{{}}}").format(*ranges) if len(numbers) > 1 else pattern.format(*numbers[0])
        )
    return ", ".join(names)


def _range(numbers: list[int]) -> str:
    consecutive = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if consecutive else ",".join(map(str, numbers))
