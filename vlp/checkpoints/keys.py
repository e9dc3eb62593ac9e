"""Two-way tables between the parameter names of a foreign checkpoint and ours.

A row pairs two patterns: `{}` stands for a layer's number, `*` for the rest of a name, each standing for the same text
on both sides. Tensors pass unchanged, transposed, or joined from several of theirs along the first dimension, so that
there and back is bit-equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from vlp.system.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class KeyRow:
    """ours None = dropped on purpose.  theirs of several names = parts of ours, in this order."""

    ours: str | None
    theirs: str | tuple[str, ...]
    transpose: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)").replace(r"\*", "(.+)"))


def _fill_pattern(pattern: str, groups: Sequence[str]) -> str:
    values = iter(groups)
    return re.sub(r"\{\}|\*", lambda _: next(values), pattern)


def to_ours(state: Mapping[str, Tensor], rows: Iterable[KeyRow]) -> State:
    result, rest = to_ours_and_rest(state, rows)
    if rest:
        raise UserError(f"this checkpoint has {list_keys(rest)} that no known model of its format has")
    return result


def to_ours_and_rest(state: Mapping[str, Tensor], rows: Iterable[KeyRow]) -> tuple[State, State]:
    """What the rows translate, and what none of them names."""
    rest, result = dict(state), State()
    for row in rows:
        for key in list(rest):
            found = _regex(row.parts[0]).fullmatch(key)
            names = [_fill_pattern(part, found.groups()) for part in row.parts] if found else []
            if not found or not all(name in rest for name in names):
                continue
            parts = [rest.pop(name) for name in names]
            if row.ours is not None:
                tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
                result[_fill_pattern(row.ours, found.groups())] = tensor.T.contiguous() if row.transpose else tensor
    return result, rest


def to_theirs(state: Mapping[str, Tensor], rows: Iterable[KeyRow]) -> State:
    rest, result = dict(state), State()
    for row in rows:
        for key in list(rest) if row.ours is not None else ():
            found = _regex(row.ours or "").fullmatch(key)
            if found:
                tensor = rest.pop(key)
                if key.endswith("attention.qkv.weight") and tensor.shape[0] != 3 * tensor.shape[1]:
                    raise UserError(
                        f"{key} has fewer heads of keys and values than of queries (key_value_heads), which the format has not"
                    )
                tensor = tensor.T.contiguous() if row.transpose else tensor
                count = len(row.parts)
                pieces = [piece.clone() for piece in tensor.chunk(count)] if count > 1 else [tensor]
                result |= {
                    _fill_pattern(name, found.groups()): piece for name, piece in zip(row.parts, pieces, strict=True)
                }
    if rest:
        raise UserError(f"this model has {list_keys(rest)} for which the format has no place")
    return result


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads as float32; every key that is missing, left over or of another shape is named in one error."""
    expected = model.state_dict()
    problems = {
        "lacks": [key for key in expected if key not in state],
        "has no place for": [key for key in state if key not in expected],
        "has another shape for": [
            f"{key} {tuple(state[key].shape)} (the model: {tuple(expected[key].shape)})"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
    }
    problems |= unusable_values(state, {key: value for key, value in expected.items() if key in state})
    if any(problems.values()):
        words = "; ".join(f"{verb} {list_keys(keys)}" for verb, keys in problems.items() if keys)
        raise UserError(f"the checkpoint does not fit the model: it {words}")
    model.load_state_dict({key: state[key].to(expected[key].dtype) for key in expected})


def unusable_values(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What is wrong with the values of the expected keys: quantised weights and NaN would be loaded as if they were weights."""
    floats = [key for key, value in expected.items() if value.is_floating_point()]
    quantised = [key for key in floats if not state[key].is_floating_point()]
    return {
        "has no floating-point numbers (it may be quantised: convert it back where it comes from) for": [
            f"{key} ({str(state[key].dtype).removeprefix('torch.')})" for key in quantised
        ],
        "has NaN in": [key for key in floats if key not in quantised and bool(state[key].isnan().any())],
    }


def refuse_unusable_values(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = unusable_values(state, {key: expected[key] for key in state})
    for verb, keys in problems.items():
        if keys:
            raise UserError(f"the checkpoint cannot be used: it {verb} {list_keys(keys)}")


def list_keys(keys: Iterable[str]) -> str:
    """Their number and their names."""
    names = sorted(keys)
    return f"{len(names)} key{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """What stands under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def count_layers(state: Mapping[str, object], prefix: str) -> int:
    """How many numbers follow `prefix` in the keys: 0, 1, 2, …"""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
