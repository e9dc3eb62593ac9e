"""Tar files with given members."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import PIL.Image


def jpeg() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    return stream.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], special: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in special or []:
            archive.addfile(member)
    return path
