"""One run, one process group: the run folder is locked while something trains in it, and a sweep's while it runs.

The lock is the kernel's, so it is gone with the process that held it, however that ended.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlp.launch import ranks
from vlp.launch.errors import ConfigError


@contextmanager
def held(file: Path, taken: Callable[[], str]) -> Iterator[None]:
    """Raises ConfigError with the sentence `taken` where another process holds the lock."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(taken()) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises ConfigError where another process trains in the folder. Ranks that another rank started belong to the holder."""
    if ranks.rank():
        yield
        return
    note = folder / ".running"

    def taken() -> str:
        who = note.read_text(encoding="utf-8").strip() if note.exists() else "another process"
        return f"{folder} is being trained by {who}: wait for it, or end it"

    with held(folder / ".lock", taken):
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
