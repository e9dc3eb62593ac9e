"""The folder that an artifact is written to: complete, or as it was before.

An artifact that is being served is never written over: its files are mapped into the memory of those that use it. A new one is
written beside it and takes its name; the old files live on as long as somebody has them open.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp.deploy.runtime.manifest import MANIFEST_NAME
from vlp.system.atomic import sync_folder
from vlp.system.errors import UserError


def check_destination(folder: Path) -> None:
    """Raises UserError where something would be lost."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: export to a folder of its own, then point the link to it")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: an artifact is a folder, give another name")
    if any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} exists and is no artifact: choose another folder, or empty it first")


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside it, which takes its name when the block ends; nothing of it is left when the block raises."""
    check_destination(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        check_destination(folder)
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def _replace(folder: Path, new: Path) -> None:
    old = folder.with_name(f".{folder.name}.old-{secrets.token_hex(4)}")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
