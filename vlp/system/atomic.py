"""Files that exist completely or not at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError


def atomic_write_text(path: Path, text: str | Iterable[str]) -> None:
    """All of the text (UTF-8), synced to the disk, or the file as it was before.  Raises OSError."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def check_output_file(path: Path, *, suffixes: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """suffixes: of the files that may be written over.  inputs: files and folders that the command reads.  Raises UserError
    where an existing file would be lost."""
    if not path.exists():
        return
    real = path.resolve()
    for source in inputs:
        if real.is_relative_to(source.resolve()):
            raise UserError(
                f"{path} belongs to what this command reads and would be lost: choose another file to write, or delete it"
            )
    if path.is_dir() or path.suffix.lower() not in suffixes:
        raise UserError(f"{path} exists and is no {suffixes[0]} file: choose another file to write")


def atomic_write_json(path: Path, value: Any, *, indent: int = 2) -> None:
    atomic_write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """So that a new name in it outlives a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it, that exists already."""
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.is_dir()), Path(path.anchor))
