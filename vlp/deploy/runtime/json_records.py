"""Frozen dataclasses from the JSON that they were written to, with every value checked: a wrong one is named by its path."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class FieldError(ValueError):
    """A value that does not fit its field; the text is "<path>: <what is wrong>"."""


def from_json(kind: type[T], value: Any, path: str = "") -> T:
    """kind: a dataclass of fields that are dataclasses, str, int, float, bool, `| None`, dict[str, …], tuple[…, ...] or
    tuples of fixed length.  Raises FieldError for a missing or an unknown key, and for a value of another kind."""
    if not isinstance(value, dict):
        raise FieldError(f"{path or 'the content'}: expected an object, got {_name(value)}")
    hints = _hints(typing.cast(Any, kind))
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := value.keys() - fields.keys():
        raise FieldError(f"{_join(path, min(unknown))}: unknown key")
    needed = (name for name, field in fields.items() if _is_required(field))
    if missing := next((name for name in needed if name not in value), None):
        raise FieldError(f"{_join(path, missing)}: missing")
    return kind(**{name: _value(hints[name], item, _join(path, name)) for name, item in value.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _value(inner, value, path)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, path)
    if origin in (dict, Mapping):
        _require(isinstance(value, dict), "an object", value, path)
        return {key: _value(arguments[1], item, _join(path, key)) for key, item in value.items()}
    if origin is tuple:
        _require(isinstance(value, list), "a list", value, path)
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
        _require(len(value) == len(arguments), f"{len(arguments)} values", value, path)
        items = enumerate(zip(arguments, value, strict=True))
        return tuple(_value(each, item, f"{path}[{index}]") for index, (each, item) in items)
    if hint is float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), "a number", value, path)
        return float(value)
    _require(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), hint.__name__, value, path)
    return value


def _require(fits: bool, expected: str, value: Any, path: str) -> None:
    if not fits:
        raise FieldError(f"{path}: expected {expected}, got {_name(value)}")


def _name(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
