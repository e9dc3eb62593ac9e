"""Is this override, or this line of an experiment file, one that the other YAML files know?

* A new key is accepted only where a constructor will look at it (below a `_target_`), below what is empty or null in
  YAML (free-form), or as a new part with its own `_target_`. A `+` does not let a typo through.
* A value has the type of the YAML's own value, or one that the constructor's annotation names. `null` and `${…}` are
  always accepted; a YAML value of `null`, `???` or `auto` accepts anything, and a number accepts `auto`.
* Where the YAML has a positive size, width, length or number of heads, layers or jobs, so must the override be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlp.launch.config.errors import ConfigError, join_names
from vlp.launch.config.signature import RESERVED, target_exists, target_parameters
from vlp.launch.config.typed_text import restored, typed_value
from vlp.system.compat.hydra import split_key
from vlp.system.suggest import did_you_mean

Plain = dict[str, Any]  # a config as plain dicts and lists, interpolations and ??? as text
POSITIVE = re.compile(r"(^|_)(size|width|length|heads|layers|jobs)$")
NOT_NEGATIVE = re.compile(r"(^|_)workers$")
KINDS: dict[type, set[str]] = {
    list: {"list", "Sequence", "tuple"},
    dict: {"dict", "Mapping"},
    int: {"int", "float"},
}  # what annotations call them
OF_ELEMENTS = re.compile(r"(?<=list|dict|uple|ence|ping)\[.*\]")  # list[…], dict[…], tuple[…], Sequence[…], Mapping[…]
TEXTS = re.compile(r"(name|runs|checkpoint|resume|monitor|split|freeze|sweep\.(metric|slurm\.partition|ray\.address))$")
NOT_EMPTY = re.compile(r"(^|\.)(name|runs|checkpoint|resume|monitor|root|folder|project)$")
NOT_ONLY_TEXT = {"int", "float", "bool", "Any", "dict", "Mapping"}
WORDS = {bool: "true or false", int: "an integer", float: "a float", str: "a string"}


class ConfigSchema:
    """What the YAML files define: the config that they compose to, the groups, and the file that sets a key."""

    def __init__(self, config: Plain, groups: list[str], origin: Callable[[str], str]) -> None:
        self.config, self.groups, self.origin = config, groups, origin

    def check_override(self, override: Override) -> Any:
        """Raise ConfigError for an unknown key or a wrong value; return what to set where a text was typed that reads as a
        number or a truth value (a folder called 2017), else None."""
        key, line, value = override.key_or_group, override.input_line or "", override.value()
        known, default = find_key(self.config, key)
        if override.package is not None or "/" in key:
            hint = did_you_mean(key, self.groups) or " groups: " + join_names(self.groups)
            raise ConfigError(f"{line}: there is no config group {key}:{hint}")
        if override.is_delete():
            if not known:
                raise ConfigError(f"{line}: nothing to remove:{self.unknown_key_message(key)}")
            return None
        if override.is_add() and known and default is not None and not isinstance(value, (dict, list)):
            raise ConfigError(f"{line}: {key} is there already; write it without +")
        typed = self.with_texts(key, value, typed_value(line.partition("=")[2]))
        self.check(line, key, typed, added=override.is_add() or override.is_force_add())
        if typed == "" and NOT_EMPTY.search(key):
            raise ConfigError(
                f"{line}: the value is empty (an unset variable?); give one, or write {key}=null for none"
            )
        return None if typed is value else typed

    def with_texts(self, key: str, value: Any, typed: Any) -> Any:
        """`value`, with what was typed in place of each number and truth value that is to be a text; itself where none is."""
        if isinstance(value, dict) and isinstance(typed, dict) and not self.takes_text(key, value):
            pairs = {name: self.with_texts(f"{key}.{name}", v, typed.get(str(name))) for name, v in value.items()}
            return pairs if any(pairs[name] is not value[name] for name in value) else value
        found = restored(value, typed) if self.takes_text(key, value) else value
        return value if found == value and type(found) is type(value) else found

    def takes_text(self, key: str, value: Any) -> bool:
        """Whether the value of a key, or each element of it, is to be a text: as YAML's own is, or else as the annotation says."""
        default = find_key(self.config, key)[1]
        if isinstance(default, str) and "${" in default:
            default = self.resolved(key)
        if isinstance(default, list) and default:
            return all(isinstance(item, str) for item in default)
        if isinstance(default, str) and default not in ("auto", "???"):
            return not isinstance(value, (list, dict)) and not self.named(key, value)
        if default not in (None, "???", []):  # "auto" stands for numbers, mostly
            return False
        return self.declares_text(key)

    def declares_text(self, key: str) -> bool:
        """Whether the constructor's annotation, or vlp itself for a key without one, says that a key is a text."""
        words = self.annotated(key)
        return bool(words & {"str", "Path"}) and not words & NOT_ONLY_TEXT if words else bool(TEXTS.match(key))

    def resolved(self, key: str) -> Any:
        """The value of an interpolation; None where it needs a run folder, or cannot be followed."""
        try:
            return OmegaConf.select(OmegaConf.create(self.config), key)
        except OmegaConfBaseException:
            return None

    def check_file(self, place: str, content: Plain) -> None:
        """An experiment file may only set what the files that it configures define."""
        for key, value in content.items():
            if key not in ("defaults", "hydra"):
                self.check(f"{place}: {key}", key, value, added=True)

    def check(self, place: str, key: str, value: Any, *, added: bool) -> None:
        known, default = find_key(self.config, key)
        if isinstance(value, dict) and "_target_" not in value and (isinstance(default, dict) or not known):
            for name, inner in value.items():
                self.check(f"{place}.{name}" if ":" in place else place, f"{key}.{name}", inner, added=added)
        if known:
            self.check_value(place, key, value, default)
        elif not isinstance(value, dict) or "_target_" in value or not value:
            self.check_new_key(place, key, value, added=added)

    def check_new_key(self, place: str, key: str, value: Any, *, added: bool) -> None:
        accepted = key.rpartition(".")[2] in RESERVED or (isinstance(value, dict) and "_target_" in value)
        for node in parent_nodes(self.config, key):
            accepted = accepted or node in (None, {}) or (isinstance(node, dict) and "_target_" in node)
        if not accepted or "." not in key:
            raise ConfigError(f"{place}: there is no {key} in the config:{self.unknown_key_message(key)}")
        if not added:
            hint = did_you_mean(key, dotted_keys(self.config))
            raise ConfigError(f"{place}: {key} is not in the YAML:{hint} To add it write +{place}")

    def check_value(self, place: str, key: str, value: Any, default: Any) -> None:
        free = default is None or (isinstance(default, str) and (default in ("auto", "???") or "${" in default))
        computed = isinstance(value, dict) and "_target_" in value and not isinstance(default, dict)
        if free or computed or value is None or (isinstance(value, str) and "${" in value):
            return
        if is_number(default):
            right = (is_number(value) and (isinstance(default, float) or isinstance(value, int))) or value == "auto"
        elif isinstance(default, str):
            right = isinstance(value, str) or is_number(value)
        else:
            right = isinstance(value, type(default))
        if not right and not self.named(key, value):
            raise ConfigError(f"{place}: {self.wrong_type_message(key, value, default)}, got {value!r}")
        if is_number(value) and value < 0 and NOT_NEGATIVE.search(key):
            raise ConfigError(f"{place}: expects 0 or more ({self.origin(key)}), got {value}")
        if is_number(value) and is_number(default) and value <= 0 < default and POSITIVE.search(key):
            raise ConfigError(f"{place}: expects a number above 0 such as {default} ({self.origin(key)}), got {value}")

    def named(self, key: str, value: Any) -> bool:
        """Whether the annotation of the constructor's argument, of which the key may be a part, names the value's type."""
        return bool(KINDS.get(type(value), {type(value).__name__}) & self.annotated(key, elements=False))

    def annotated(self, key: str, *, elements: bool = True) -> set[str]:
        """The words in the annotation of the constructor's argument that a key is, or is a part of.

        elements: whether those of a list's or mapping's elements count where the key is the argument itself.
        """
        parts = split_key(key)
        for length in range(len(parts) - 1, 0, -1):
            node = find_key(self.config, ".".join(parts[:length]))[1]
            target = node.get("_target_") if isinstance(node, dict) else None
            if isinstance(target, str):
                annotation = (target_parameters(target) or {}).get(parts[length], "")
                if not elements and length == len(parts) - 1:
                    annotation = OF_ELEMENTS.sub("", annotation)
                return set(re.findall(r"\w+", annotation))
        return set()

    def wrong_type_message(self, key: str, value: Any, default: Any) -> str:
        if isinstance(default, dict):
            group = key.replace(".", "/")
            other = f"to choose another one write {group}={value}"
            fix = other if group in self.groups else f"set its keys, such as {key}.{next(iter(default), 'key')}"
            return f"{key} is a group of settings ({self.origin(key)}); {fix}"
        if isinstance(default, list):
            return f"expects a list such as {key}=[{value}] ({self.origin(key)})"
        example = str(default).lower() if isinstance(default, bool) else default
        return f"expects {WORDS[type(default)]} such as {example} ({self.origin(key)})"

    def unknown_key_message(self, key: str) -> str:
        hint = did_you_mean(key, [*dotted_keys(self.config), *self.groups])
        return hint or f" the top-level keys are {join_names(self.config)}"


def check_targets(config: Plain) -> None:
    """Every argument of a `_target_` is one that its constructor names, read from the source without an import."""
    for group in ("objective", "task"):
        if group in config:
            dotted = str(find_key(config, f"{group}._target_")[1]).split(".")
            name = dotted[-2] if len(dotted) > 1 else "NAME"
            raise ConfigError(
                f"conf/{group}/{name}.yaml would not be used: its first line must be '# @package {group}s.{name}'"
            )
    for path, node in dotted_nodes(config):
        target = node.get("_target_") if isinstance(node, dict) else None
        if not isinstance(target, str) or "${" in target:
            continue
        if re.fullmatch(r"data\.sources\.[^.]+", path) and not node.get("_partial_"):
            raise ConfigError(f"{path}: a source is finished by its mixture: set +{path}._partial_=true")
        if target.startswith("vlp.") and not target_exists(target):
            raise ConfigError(f"{path}._target_: there is no {target} in the package")
        accepted = target_parameters(target)
        for name in node if accepted is not None else ():
            if accepted is not None and name not in accepted and name not in RESERVED:
                hint = did_you_mean(str(name), accepted) or f" it takes {join_names(accepted) or 'none'}"
                raise ConfigError(f"{path}.{name}: {target} takes no argument {name!r}:{hint}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def find_key(config: Any, key: str) -> tuple[bool, Any]:
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


def parent_nodes(config: Plain, key: str) -> Iterator[Any]:
    """What lies above a key, the root excluded, as far as it exists."""
    parts = split_key(key)
    for length in range(1, len(parts)):
        known, node = find_key(config, ".".join(parts[:length]))
        if known:
            yield node


def dotted_nodes(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a config with its dotted path."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, value in pairs:
        place = f"{path}.{name}" if path else str(name)
        yield place, value
        yield from dotted_nodes(value, place)


def dotted_keys(config: Plain) -> list[str]:
    return [path for path, _ in dotted_nodes(config) if path.rpartition(".")[2] not in RESERVED]
