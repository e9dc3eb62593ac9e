"""Text of others on a terminal: what could move the cursor, colour the screen or turn the writing direction is shown, not done."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # part of the spelling of Persian, Hindi and emoji


def printable(text: str, width: int | None = None) -> str:
    r"""Control characters as \x1b, \u202e, …; cut to a width in characters."""
    shown = "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)
    return shown if width is None or len(shown) <= width else shown[: width - 1] + "…"
