"""Config → objects: a plain dict with `_target_` becomes a call of the named class or function, its arguments built first.

A config from a file (a checkpoint) is not trusted. It is built with `allow`: each target must be a class that is defined,
not only imported, below one of these modules.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

from vlp.system.errors import UserError
from vlp.upgrade import upgrade_target

ALLOWED_IN_FILES = (
    "vlp.models.",
    "vlp.tokenizers.",
    "vlp.data.transforms.",
    "vlp.data.padded_transforms.",
    "vlp.objectives.",
    "vlp.tasks.",
)
_SPECIAL_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")


def build(config: Any, /, *, allow: Sequence[str] | None = None, **built: Any) -> Any:
    """allow: prefixes of the modules whose classes may be called; None = everything, for the user's own config.

    built: further arguments of the outermost target, objects that are not in the config.
    """
    if isinstance(config, (list, tuple)):
        return [build(item, allow=allow) for item in config]
    if not isinstance(config, dict):
        return config
    values = {key: build(value, allow=allow) for key, value in config.items() if key not in _SPECIAL_KEYS}
    if "_target_" not in config:
        if not values.keys() == config.keys():
            raise UserError(f"a config node with {sorted(set(config) - set(values))} has no _target_")
        return values
    path = upgrade_target(config["_target_"])
    target = import_allowed_class(path, allow) if allow is not None else _import_object(path)
    values |= built
    return functools.partial(target, **values) if config.get("_partial_") else target(**values)


def _import_object(path: str) -> Any:
    names = path.split(".")
    for end in range(len(names) - 1, 0, -1):
        module_name = ".".join(names[:end])
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name + ".").startswith(error.name + "."):
                continue
            raise
        return functools.reduce(getattr, names[end:], module)
    raise UserError(f"there is no {path}")


def import_allowed_class(path: Any, allow: Sequence[str]) -> type:
    prefixes = ", ".join(prefix + "*" for prefix in allow)
    refusal = UserError(f"the config in this file names {path!r}; only classes of {prefixes} are built from files")
    module, _, name = str(path).rpartition(".")
    if not any((module + ".").startswith(prefix) for prefix in allow):
        raise refusal
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise refusal from error
    if not isinstance(target, type) or target.__module__ != module:
        raise refusal
    return target
