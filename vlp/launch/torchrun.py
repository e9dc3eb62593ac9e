"""`torchrun … train.py …`: the first process makes the run folder, the others find it.

torchrun starts the same command several times, on one machine or more. Rank 0 freezes the config and leaves the folder's
name beside it, under the name of the rendezvous; the others wait for that. When torchrun restarts its processes they go
on in the same folder.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from vlp.launch.errors import ConfigError
from vlp.launch.run_folder import safe_name, write_text

PATIENCE = 120  # seconds


def rank() -> int | None:
    """None where torchrun did not start this process."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ else None


def note(parent: Path) -> Path:
    names = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
    if restarted():  # a new rendezvous has another port
        names.pop()
        found = sorted(
            parent.glob(f".{safe_name('-'.join(['torchrun', *names]))}*"), key=lambda file: file.stat().st_mtime
        )
        if found:
            return found[-1]
    return parent / f".{safe_name('-'.join(['torchrun', *names]))}"


def restarted() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def tell(parent: Path, folder: Path) -> None:
    write_text(note(parent), str(folder.resolve()))


def told(parent: Path) -> Path:
    """The folder that rank 0 made.  Raises ConfigError after two minutes."""
    begin = time.time() - 10  # ranks are started together; an older note is of an earlier run
    while time.time() < begin + 10 + PATIENCE:
        file = note(parent)
        if file.exists() and (restarted() or file.stat().st_mtime >= begin):
            return Path(file.read_text(encoding="utf-8"))
        time.sleep(0.05)
    raise ConfigError(
        f"{parent}: rank 0 made no run folder there within {PATIENCE} seconds: all machines need the same runs=DIR on a file "
        "system that they share"
    )
