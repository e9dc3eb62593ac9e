"""Is there room? Asked before the first byte, because the answer after ten hours is worth nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from vlp.data.download.listing import readable

SPARE = 64 << 20  # bytes that stay free


def check_space(root: Path, *, downloads: int, unpacked: int) -> None:
    """downloads, unpacked: bytes still to come; OSError with the numbers where they do not fit."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    needed = downloads + unpacked
    if needed and needed + SPARE > free:
        raise OSError(
            f"{root}: {readable(needed)} are needed ({readable(downloads)} to download, {readable(unpacked)} when "
            f"unpacked) and {readable(free)} are free; make room, choose parts with --only, or another disk with --root"
        )
