"""One run, one process group: the run folder is locked while something trains in it.

The lock is the kernel's, so it is gone with the process that held it, however that ended. Ranks that another rank started
belong to the holder and do not ask for it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlp.launch.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises ConfigError where another process trains in the folder."""
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) != 0:
        yield
        return
    note = folder / ".running"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = note.read_text(encoding="utf-8").strip() if note.exists() else "another process"
        raise ConfigError(f"{folder} is being trained by {who}: wait for it, or end it") from None
    try:
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()
