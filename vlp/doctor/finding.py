"""What a check says: how bad it is, what it saw, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fine", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """check: a stable id, "<subject>.<what>".  fix: what the user can paste; empty where nothing is wrong."""

    check: str
    severity: Severity
    what: str
    fix: str = ""


def fine_finding(check: str, what: str) -> Finding:
    return Finding(check, "fine", what)


def warning(check: str, what: str, fix: str) -> Finding:
    return Finding(check, "warning", what, fix)


def error(check: str, what: str, fix: str) -> Finding:
    return Finding(check, "error", what, fix)
