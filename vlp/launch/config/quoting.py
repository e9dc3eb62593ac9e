"""Overrides whose text Hydra's grammar cannot read: `{00000..00099}.tar`, `epoch=3-step=9.ckpt`, `/data/été`, `photos (1)`.

The grammar needs quotes within the shell's quotes around such a text. Where it cannot read a value that can only be meant as a
text, the quotes are added here; a value that may be a list, a dict or several values of a sweep stays as it is, an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_RANGE = re.compile(r"\{\d+\.\.\d+\}")
_PLAIN = re.compile(r"[\w./+~@:-]+=[\w./+*%@-]*", re.ASCII)  # most overrides; parsing one takes a millisecond
_CLOSES = {"(": ")", "[": "]", "{": "}"}


def quote_text(line: str, is_readable: Callable[[str], bool]) -> str:
    """The override, its value or the values within its list or dict quoted where `is_readable` refuses them and they are texts.

    is_readable: whether Hydra's grammar reads an override.
    """
    key, equals, value = line.partition("=")
    if not equals or _PLAIN.fullmatch(line) or is_readable(line):
        return line
    quoted = _quote(value, lambda text: is_readable(f"{key}={text}"))
    return line if quoted is None else f"{key}={quoted}"


def _quote(value: str, is_readable: Callable[[str], bool]) -> str | None:
    """A readable form of a value; None if it may be more than a text."""
    value = value.strip()
    if not value or len(_split_top_level(value) or ()) != 1:
        return None  # brackets that do not close, or the values of a sweep
    if is_readable(value):
        return value
    inner = _split_top_level(value[1:-1]) if _wraps(value) else None
    if value[0] == "[" and inner is not None:
        items = [_quote(item, is_readable) for item in inner]
        return None if None in items else f"[{','.join(map(str, items))}]"
    if value[0] == "{" and inner is not None and all(":" in item for item in inner):
        pairs = [(key, _quote(item, is_readable)) for key, _, item in (item.partition(":") for item in inner)]
        return (
            None
            if any(item is None for _, item in pairs)
            else f"{{{','.join(f'{key}:{item}' for key, item in pairs)}}}"
        )
    if inner is not None and value[0] in "[{" and not _RANGE.fullmatch(value):
        return None  # a dict without colons, such as {a=1}
    if '"' in value or "${" in value or value[0] in "'=" or value.endswith("\\"):
        return None
    return f'"{value}"'


def _split_top_level(text: str) -> list[str] | None:
    """The parts between commas that are in no brackets and no quotes; None where brackets or quotes are not closed."""
    parts, start, expected, quote = [], 0, [], ""
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[position - 1] != "\\" else quote
        elif letter in "\"'" and (position == 0 or text[position - 1] in " ,:[{("):
            quote = letter
        elif letter in _CLOSES:
            expected.append(_CLOSES[letter])
        elif letter in _CLOSES.values():
            if not expected or expected.pop() != letter:
                return None
        elif letter == "," and not expected:
            parts.append(text[start:position])
            start = position + 1
    return None if quote or expected else [*parts, text[start:]]


def _wraps(value: str) -> bool:
    """Whether the first bracket closes with the last letter."""
    if value[0] not in _CLOSES or value[-1] != _CLOSES[value[0]]:
        return False
    return _split_top_level(value[1:-1]) is not None
