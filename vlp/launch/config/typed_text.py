"""Scalars as they were typed, for settings that are texts: a run called 1e5, a folder 007, a tag on.

Hydra and YAML read such texts as numbers, truth values or null before anyone knows what the setting is. Here they are read once
more, with every scalar left as text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Scalar = (bool, int, float)
_TOKEN = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[\[\]{},:()]|(?:\\.|\$\{[^}]*\}|[^\[\]{},:()'"\\])+)""")
_NUMBER_LIKE = re.compile(r"[-+]?[\d._]+[eE][-+]?\d+")


class ConfigDumper(yaml.SafeDumper):
    """Writes texts so that both PyYAML and OmegaConf, which knows more forms of numbers (1e5), read them back as texts."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _NUMBER_LIKE.fullmatch(text) else None)


ConfigDumper.add_representer(str, _represent_text)


def dump(container: Any) -> str:
    return yaml.dump(container, Dumper=ConfigDumper, sort_keys=False, allow_unicode=True, width=2**16)


def read_typed(file: Path) -> Any:
    """A YAML file with every scalar as it stands in the file."""
    return yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def typed_value(text: str) -> Any:
    """The value of an override with every scalar as it was typed: "[1e5, {a: 007}]" → ["1e5", {"a": "007"}]."""
    tokens = [match.strip() for match in _TOKEN.findall(text)]
    value, rest = _parse(tokens)
    return value if not rest and value is not None else text.strip()


def typed_elements(text: str) -> list[str]:
    """Of a sweep over a,b,c or choice(a,b,c): its elements as they were typed."""
    text = re.sub(r"^\s*choice\s*\((.*)\)\s*$", r"\1", text, flags=re.DOTALL)
    found = typed_value(f"[{text}]")
    return [str(element) for element in found] if isinstance(found, list) else []


def _parse(tokens: list[str]) -> tuple[Any, list[str]]:
    if not tokens:
        return None, []
    first, rest = tokens[0], tokens[1:]
    if first == "[":
        items = []
        while rest and rest[0] != "]":
            item, rest = _parse(rest)
            items.append(item)
            rest = rest[1:] if rest[:1] == [","] else rest
        return items, rest[1:]
    if first == "{":
        pairs: dict[str, Any] = {}
        while len(rest) > 1 and rest[0] != "}":
            key, rest = rest[0], rest[2:]
            pairs[key.strip("'\"")], rest = _parse(rest)
            rest = rest[1:] if rest[:1] == [","] else rest
        return pairs, rest[1:]
    while rest and rest[0] not in ("]", "}", ","):  # a text with colons, brackets or quotes in it
        first, rest = first + rest[0], rest[1:]
    return first, rest


def restored(value: Any, typed: Any) -> Any:
    """`value` with its numbers and truth values as they were typed; None stays None."""
    if isinstance(value, list) and isinstance(typed, list) and len(value) == len(typed):
        return [restored(*pair) for pair in zip(value, typed, strict=True)]
    if isinstance(value, dict) and isinstance(typed, dict):
        return {key: restored(inner, typed.get(str(key))) for key, inner in value.items()}
    return typed if isinstance(value, Scalar) and isinstance(typed, str) else value
