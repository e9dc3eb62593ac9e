"""Is this override, or this line of an experiment file, one that the other YAML files know?

* A new key is accepted only where a constructor will look at it (below a `_target_`), below what is empty or null in
  YAML (free-form), or as a new part with its own `_target_`. A `+` does not let a typo through.
* A value has the type of the YAML's own value. `null` and `${…}` are always accepted; a YAML value of `null`, `???` or
  `auto` accepts anything, and a number accepts `auto`.
* Where the YAML has a positive size, width, length or number of heads or layers, so must the override be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf._utils import split_key

from vlp.launch.errors import ConfigError, did_you_mean, listing
from vlp.launch.signature import RESERVED, exists, parameters

Plain = dict[str, Any]  # a config as plain dicts and lists, interpolations and ??? as text
POSITIVE = re.compile(r"(^|_)(size|width|length|heads|layers|jobs)$")
NOT_NEGATIVE = re.compile(r"(^|_)(workers)$")


def check_override(override: Override, config: Plain, groups: list[str], origin: Callable[[str], str]) -> str | None:
    """Raise ConfigError for an unknown key or a wrong value; return the text to set where YAML has a string but the
    override reads as a number (a folder called 2017)."""
    key, line = override.key_or_group, override.input_line or ""
    known, default = lookup(config, key)
    if override.package is not None or "/" in key:
        raise ConfigError(
            f"{line}: there is no config group {key}:{did_you_mean(key, groups) or ' groups: ' + listing(groups)}"
        )
    if not known:
        if override.is_delete():
            raise ConfigError(f"{line}: nothing to remove:{unknown(key, config, groups)}")
        check_new(line, key, override.value(), config, groups, added=override.is_add() or override.is_force_add())
        return None
    if override.is_delete():
        return None
    if override.is_add() and not isinstance(override.value(), (dict, list)) and default is not None:
        raise ConfigError(f"{line}: {key} is there already; write it without +")
    return check_value(line, key, override.value(), default, groups, lambda: origin(key))


def check_file(place: str, content: Any, skeleton: Plain, groups: list[str]) -> None:
    """An experiment file may only set what the files that it configures define."""
    for key, value in leaves(content):
        if key.split(".")[0] in ("defaults", "hydra"):
            continue
        known, default = lookup(skeleton, key)
        if known:
            check_value(f"{place}: {key}", key, value, default, groups, lambda: "the files that it configures")
        elif not any("_target_" in node for node in parents(content, key)):
            check_new(f"{place}: {key}", key, value, skeleton, groups, added=True)


def check_new(place: str, key: str, value: Any, config: Plain, groups: list[str], *, added: bool) -> None:
    accepted = key.rpartition(".")[2] in RESERVED or (isinstance(value, dict) and "_target_" in value)
    for parent in parents(config, key):
        accepted = accepted or "_target_" in parent or len(parent) == 0
    accepted = accepted or lookup(config, key.rpartition(".")[0]) == (True, None)
    if not accepted or "." not in key:
        raise ConfigError(f"{place}: there is no {key} in the config:{unknown(key, config, groups)}")
    if not added:
        raise ConfigError(
            f"{place}: {key} is not in the YAML:{did_you_mean(key, keys(config))} To add it write +{place}"
        )


def unknown(key: str, config: Plain, groups: list[str]) -> str:
    hint = did_you_mean(key, [*keys(config), *groups])
    return hint or f" the top-level keys are {listing(config)}"


def check_value(
    place: str, key: str, value: Any, default: Any, groups: list[str], origin: Callable[[], str]
) -> str | None:
    """The value as text when YAML has a string and the value reads as a number, else None."""
    free = default is None or (isinstance(default, str) and (default in ("auto", "???") or "${" in default))
    if free or value is None or (isinstance(value, str) and "${" in value):
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        right = (number and (isinstance(default, float) or isinstance(value, int))) or value == "auto"
    elif isinstance(default, str):
        right = isinstance(value, str) or number
    else:
        right = isinstance(value, type(default))
    if not right:
        raise ConfigError(wrong_type(place, key, value, default, groups, origin()))
    if number and isinstance(default, (int, float)) and default > 0 and value <= 0 and POSITIVE.search(key):
        raise ConfigError(f"{place}: expects a number above 0 such as {default} ({origin()}), got {value}")
    if number and value < 0 and NOT_NEGATIVE.search(key):
        raise ConfigError(f"{place}: expects 0 or more ({origin()}), got {value}")
    return place.partition("=")[2].strip() if number and isinstance(default, str) else None


def wrong_type(place: str, key: str, value: Any, default: Any, groups: list[str], origin: str) -> str:
    if isinstance(default, dict):
        group = key.replace(".", "/")
        fix = (
            f"; to choose another one write {group}={value}"
            if group in groups
            else f"; set its keys, such as {next(iter(default), 'key')}"
        )
        return f"{place}: {key} is a group of settings ({origin}), got {value!r}{fix}"
    if isinstance(default, list):
        return f"{place}: expects a list such as {key}=[{value}] ({origin}), got {value!r}"
    words = {bool: "true or false", int: "an integer", float: "a float", str: "a string"}
    example = str(default).lower() if isinstance(default, bool) else default
    return f"{place}: expects {words[type(default)]} such as {example} ({origin}), got {value!r}"


def check_targets(config: Plain) -> None:
    """Every argument of a `_target_` is one that its constructor names, read from the source without an import."""
    for path, node in nodes(config):
        target = node.get("_target_") if isinstance(node, dict) else None
        if not isinstance(target, str) or "${" in target:
            continue
        if target.startswith("vlp.") and not exists(target):
            raise ConfigError(f"{path}._target_: there is no {target} in the package")
        accepted = parameters(target)
        for name in node if accepted else ():
            if accepted and str(name) not in accepted | RESERVED:
                hint = did_you_mean(str(name), accepted) or f" it takes {listing(accepted)}"
                raise ConfigError(f"{path}.{name}: {target} takes no argument {name!r}:{hint}")


def lookup(config: Any, key: str) -> tuple[bool, Any]:
    """Whether a dotted key exists in a plain (unresolved) config, and its value."""
    node = config
    for part in split_key(key):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return False, None
    return True, node


def parents(config: Plain, key: str) -> Iterator[Plain]:
    """The mappings above a key, the root excluded, as far as they exist."""
    parts = split_key(key)
    for length in range(1, len(parts)):
        node = lookup(config, ".".join(parts[:length]))[1]
        if isinstance(node, dict):
            yield node


def nodes(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every mapping, list and value below a mapping, with its dotted path."""
    for name, value in (
        config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    ):
        place = f"{path}.{name}" if path else str(name)
        yield place, value
        yield from nodes(value, place)


def leaves(config: Plain, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is not a mapping with something in it, with its dotted path."""
    for name, value in config.items():
        place = f"{path}.{name}" if path else str(name)
        if isinstance(value, dict) and value:
            yield from leaves(value, place)
        else:
            yield place, value


def keys(config: Plain) -> list[str]:
    return [path for path, _ in nodes(config) if path.rpartition(".")[2] not in RESERVED]
