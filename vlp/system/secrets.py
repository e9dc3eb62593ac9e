"""Secrets in what a process prints or writes: their values are replaced by <hidden>.

A value is secret when its key or its environment variable has a name that says so, or when a file names its variable in
place of it (`${oc.env:NAME}`).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType

HIDDEN = "<hidden>"
SECRET = re.compile(  # names of keys
    r"^((.*_)?(api_?key|access_?key|secret(_key)?|password|passwd)|((auth|access|hf|hub|bearer|api|wandb)_?)?token)$",
    re.I,
)
SECRET_VARIABLE = re.compile(r"\boc\.env:[^}]*(token|key|secret|password)", re.I)
_NAME = re.compile(r"token|key|secret|passw(or)?d|credential", re.I)
_REFERENCE = re.compile(r"\boc\.env:\s*([\w.]+)")
_WITHIN = re.compile(r"""[\w']*?(\w+)["']?\s*:\s*("[^"]*"|'[^']*'|[^,{}\[\]\s]+)""")
MIN_SECRET_LENGTH = 6  # characters; a shorter value (a flag, a number) stands in too many texts that are no secret


def known_secrets(config: Path) -> list[str]:
    """The secrets that this process knows, the longest first, as one may hold another."""
    try:
        named = set(_REFERENCE.findall(config.read_text(encoding="utf-8")))
    except OSError:
        named = set()
    found = {value for name, value in os.environ.items() if _NAME.search(name) or name in named}
    return sorted((value for value in found if len(value) >= MIN_SECRET_LENGTH), key=len, reverse=True)


def secrets_in_overrides(lines: Iterable[str]) -> list[str]:
    """Values that stand on the command line after a key that looks secret, also within {…}."""
    found: set[str] = set()
    for key, _, value in (line.partition("=") for line in lines):
        if SECRET.match(key.rpartition(".")[2].lstrip("+~")):
            found.add(value)
        else:
            found |= {text.strip("'\"") for name, text in _WITHIN.findall(value) if SECRET.match(name)}
    return sorted((value for value in found if value and "${" not in value), key=len, reverse=True)


def redact(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        for form in dict.fromkeys((secret, repr(secret)[1:-1])):  # as it is, and as repr escapes it
            text = text.replace(form, HIDDEN)
    return text


def hide_in_tracebacks(secrets: Collection[str]) -> None:
    """What Python prints of an exception that nobody handles, in any thread of this process."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace)), secrets))

    sys.excepthook = show
    threading.excepthook = lambda arguments: show(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
