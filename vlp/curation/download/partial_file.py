"""An incomplete download: FILE.part, and FILE.part.json that says of which version of the remote file it is the beginning.

The two agree even if the process is killed: the JSON is written before the first byte, and never describes other bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlp.system.atomic import atomic_write_text, sync_folder


@dataclass(frozen=True, kw_only=True)
class RemoteVersion:
    """etag, modified: as the server sent them, to recognise that the remote file has changed.  total: its bytes."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """The value for If-Range: weak ETags do not promise the same bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def matches(self, other: RemoteVersion) -> bool:
        """Whether all values that both servers' responses have are equal."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.total, other.total))
        return all(a is None or b is None or a == b for a, b in pairs)


class PartialFile:
    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.version_path = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def resumable_version(self, url: str) -> RemoteVersion | None:
        """The version of which the file is the beginning; None where it cannot be continued from this address."""
        try:
            content: Any = json.loads(self.version_path.read_text(encoding="utf-8"))
            version = RemoteVersion(**{field.name: content[field.name] for field in fields(RemoteVersion)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        too_long = isinstance(version.total, int) and self.size > version.total
        return version if version.url == url and self.size and not too_long else None

    def start(self, version: RemoteVersion) -> None:
        """Deletes the old bytes; the caller appends those of `version`."""
        self.delete()
        atomic_write_text(self.version_path, json.dumps(asdict(version)))

    def delete(self) -> None:
        self.version_path.unlink(missing_ok=True)  # first: bytes without a version are never continued
        self.path.unlink(missing_ok=True)

    def move_to_target(self) -> None:
        """Atomically, synced to the disk."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, self.target)
        sync_folder(self.target.parent)
        self.version_path.unlink(missing_ok=True)
