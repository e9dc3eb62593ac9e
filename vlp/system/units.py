"""What people read on a terminal: bytes, durations, and text of others without its control characters."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # part of the spelling of Persian, Hindi and emoji


def readable_bytes(count: int | float) -> str:
    """With decimal prefixes, as disks and `ls --si` count: 19336861798 → '19.3 GB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "bytes" or abs(count) >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def readable_duration(seconds: int | float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def printable(text: str, width: int | None = None) -> str:
    r"""What could move the cursor, colour the screen or turn the writing direction is shown as \x1b, \u202e, …; cut to a
    width in characters."""
    escaped = "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)
    return escaped if width is None or len(escaped) <= width else escaped[: width - 1] + "…"
