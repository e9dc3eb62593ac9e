"""A download that is not complete yet: FILE.part, and FILE.part.json that says of which remote file it is the beginning.

Killed at any moment, the two can be trusted: the JSON is written before the first byte, and never describes other bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlp.system.atomic import atomic_write_text, sync_folder


@dataclass(frozen=True, kw_only=True)
class Origin:
    """etag, modified: as the server sent them, to recognise that the remote file has changed.  total: its bytes."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range may say: weak ETags do not promise the same bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def same(self, other: Origin) -> bool:
        """Nothing of what both servers' answers say differs."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.total, other.total))
        return all(a is None or b is None or a == b for a, b in pairs)


class Partial:
    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.description = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self, url: str) -> Origin | None:
        """Of what is there from this address; None where nothing is, or nothing that can be gone on with."""
        try:
            content: Any = json.loads(self.description.read_text(encoding="utf-8"))
            origin = Origin(**{field.name: content[field.name] for field in fields(Origin)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        too_long = isinstance(origin.total, int) and self.size > origin.total
        return origin if origin.url == url and self.size and not too_long else None

    def begin(self, origin: Origin) -> None:
        """Forgets what is there; the bytes of `origin` follow."""
        self.drop()
        atomic_write_text(self.description, json.dumps(asdict(origin)))

    def drop(self) -> None:
        self.description.unlink(missing_ok=True)  # first: bytes without a description are never gone on with
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Puts the file in its place at once, safely on the disk."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self.path, self.target)
        sync_folder(self.target.parent)
        self.description.unlink(missing_ok=True)
