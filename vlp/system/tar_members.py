"""Files inside tars, which can be used wherever a path can."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside a tar: `size` bytes from byte `offset` of `archive`, a file of this machine. Its text form,
    `shard.tar!512+2048/photo.jpg`, is read back by `parse`, so it can be used wherever a path can.

    fetch: downloads the archive again if the cache has removed it.
    """

    archive: Path
    name: str
    offset: int
    size: int
    fetch: Callable[[], Path] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.archive}!{self.offset}+{self.size}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Member | None:
        match = re.fullmatch(r"(.+)!(\d+)\+(\d+)/(.+)", text, re.DOTALL)
        return match and cls(archive=Path(match[1]), name=match[4], offset=int(match[2]), size=int(match[3]))
