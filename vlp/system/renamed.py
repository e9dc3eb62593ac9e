"""Public Python names that were renamed: the old name works, and each use warns with the name to write instead."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed_attributes(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module (PEP 562).  names: from each old name to the full dotted path of today's."""

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        today, _, attribute = names[name].rpartition(".")
        message = f"{module}.{name} was renamed: write from {today} import {attribute}"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(today), attribute)

    return __getattr__


class RenamedMethod:
    """`old = RenamedMethod("new")` in the body of a class: the method `new` under its old name."""

    def __init__(self, new: str) -> None:
        self._new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self._message = f"{owner.__name__}.{name} was renamed: write {self._new}"

    def __get__(self, instance: Any, owner: type) -> Any:
        warnings.warn(self._message, FutureWarning, stacklevel=2)
        return getattr(owner if instance is None else instance, self._new)
