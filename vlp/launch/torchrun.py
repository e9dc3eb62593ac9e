"""`torchrun … train.py …`: the first process makes the run folder, the others find it.

torchrun starts the same command several times, on one machine or more. Rank 0 freezes the config and leaves the folder's
name beside it, under the name of the rendezvous; the others wait for that. When torchrun restarts its processes they go
on in the same folder.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from vlp.launch.config.errors import ConfigError
from vlp.launch.runs.folder import safe_name
from vlp.system.atomic import atomic_write_text

RUN_FOLDER_TIMEOUT_S = 120  # seconds
EARLIER = 30  # seconds that rank 0 may be ahead; a wrong folder would be found by the comparison of configs


def run_folder_note(parent: Path) -> Path:
    run_id, *place = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))
    exact = parent / f".{safe_name('-'.join(['torchrun', run_id, *place]))}"
    if is_restart() and not exact.exists() and run_id != "none":  # a new rendezvous has another address or port
        found = sorted(parent.glob(f".{safe_name(f'torchrun-{run_id}')}-*"), key=lambda file: file.stat().st_mtime)
        return found[-1] if found else exact
    return exact


def is_restart() -> bool:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def publish_run_folder(parent: Path, folder: Path) -> None:
    atomic_write_text(run_folder_note(parent), str(folder.resolve()))


def file_system_time(parent: Path) -> float:
    """By the clock of the file system, which may be another machine's."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=parent) as file:
        return os.fstat(file.fileno()).st_mtime


def wait_for_run_folder(parent: Path) -> Path:
    """The folder that rank 0 made.  Raises ConfigError after two minutes."""
    begin = file_system_time(parent) - time.process_time() - EARLIER  # an older note is of an earlier run
    end = time.monotonic() + RUN_FOLDER_TIMEOUT_S
    while time.monotonic() < end:
        file = run_folder_note(parent)
        if file.exists() and (is_restart() or file.stat().st_mtime >= begin):
            return Path(file.read_text(encoding="utf-8"))
        time.sleep(0.05)
    raise ConfigError(
        f"{parent}: rank 0 made no run folder there within {RUN_FOLDER_TIMEOUT_S} seconds: all machines need the same runs=DIR "
        "on a file system that they share"
    )
