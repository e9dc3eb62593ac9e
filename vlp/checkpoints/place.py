"""Where a checkpoint's weights lie, and which they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vlp.checkpoints import sharded


def weights_place(path: Path) -> Path:
    """What is read of a path: of a run folder its best checkpoint, or else its last one; any other path itself."""
    runs = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    return next((file for file in runs if file.is_file() or sharded.is_sharded(file)), path)


def weights_sha256(path: Path) -> str:
    """Of the file that is read, as `sha256sum` prints it; of a folder, over the names and contents of all its files."""
    place = weights_place(path)
    if place.is_file():
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for part in sorted(file for file in place.rglob("*") if file.is_file()):
        digest.update(f"{part.relative_to(place)} {weights_sha256(part)}\n".encode())
    return digest.hexdigest()
