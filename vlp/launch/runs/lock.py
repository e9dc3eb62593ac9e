"""One run, one process group: the run folder is locked while something trains in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp.launch.config.errors import ConfigError
from vlp.system import ranks
from vlp.system.locks import exclusive_lock


@contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """Raises ConfigError where another process trains in the folder. Ranks that another rank started belong to the holder."""
    if ranks.rank():
        yield
        return
    note = folder / ".running"

    def taken() -> ConfigError:
        who = note.read_text(encoding="utf-8").strip() if note.exists() else "another process"
        return ConfigError(f"{folder} is being trained by {who}: wait for it, or end it")

    with exclusive_lock(folder / ".lock", taken):
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
