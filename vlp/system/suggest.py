"""' did you mean …?': the names that a mistyped one may stand for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """' did you mean a or b?' among many dotted keys, or nothing when no name is near. A key also matches by its last
    part: lr → optimizer.lr."""
    last, scored = re.split(r"[./]", word)[-1], []
    for name in set(known):
        ratio, tail = _ratio(word, name), _ratio(last, re.split(r"[./]", name)[-1])
        if ratio >= 0.7 or tail == 1 or (tail >= 0.75 and ratio >= 0.5):
            scored.append((-(ratio + tail), name))
    best = min((score for score, _ in scored), default=0.0)
    return _question([name for score, name in sorted(scored)[:count] if score <= best + 0.3])


def nearest_option(word: str, options: Iterable[str], count: int = 3) -> str:
    """The same among a few options, also when only the beginning of a longer name was typed."""
    scored = [(-max(_ratio(word, name), 0.95 * _ratio(word, name[: len(word)])), len(name), name) for name in options]
    return _question([name for score, _, name in sorted(scored)[:count] if score <= -0.5])


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _question(names: list[str]) -> str:
    return f" did you mean {' or '.join(names)}?" if names else ""
