"""Where the run writes: whether it can, whether there is room for its checkpoints, and where the temporary folder lies."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vlp.doctor.finding import Finding, error, fine, warning
from vlp.system.units import readable_bytes

CHECKPOINTS = 4  # best.ckpt, last.ckpt, previous.ckpt, and the one that is being written


def existing(folder: Path) -> Path:
    """The nearest folder above that is there already."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


def run_folder(parent: Path) -> Finding:
    """By making a folder there and taking it away: permissions do not tell of read-only file systems."""
    place = existing(parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".vlp-doctor-", dir=place):
            return fine("storage.run_folder", f"{place} can be written to")
    except OSError as problem:
        told = f"no run folder can be made in {parent}: {problem.strerror}"
        return error("storage.run_folder", told, "vlp train runs=$HOME/runs")


def disk(parent: Path, checkpoint_bytes: int) -> Finding:
    need, free = CHECKPOINTS * checkpoint_bytes, shutil.disk_usage(existing(parent)).free
    told = f"checkpoints need {readable_bytes(need)}, {existing(parent)} has {readable_bytes(free)} free"
    if need > free:
        return error("storage.disk", told, f"df -h {existing(parent)}; vlp train runs=/a/larger/disk/runs")
    return fine("storage.disk", told)


def temporary(parent: Path) -> Finding:
    """Lightning's own callbacks write a file to the temporary folder and move it: atomic on one file system only. A run's
    last.ckpt and best.ckpt do not go that way."""
    folder, place = Path(tempfile.gettempdir()), existing(parent)
    fix = f"mkdir -p {parent.absolute()}/.tmp && export TMPDIR={parent.absolute()}/.tmp"
    if os.stat(folder).st_dev == os.stat(place).st_dev:
        return fine("storage.temporary", f"{folder} is on the run folder's file system")
    told = (
        f"{folder} is on another file system than {place}: last.ckpt and best.ckpt are safe, but what other callbacks save "
        "is broken when the run is killed meanwhile"
    )
    return warning("storage.temporary", told, fix)
