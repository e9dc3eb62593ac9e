"""The members of a zip or tar archive, each looked at before a byte of it is used: names, kinds, sizes."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol, runtime_checkable

from vlp.data.annotation_files import inside
from vlp.system.compat.stdlib import tar_members
from vlp.system.errors import UserError
from vlp.system.units import readable_bytes

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError,  # zipfile: an unknown compression, a password
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive of a data set stays far below, and a bomb does not.  ratio: unpacked bytes for each of the
    archive (annotations in JSON reach 32), counted above `free` bytes."""

    members: int = 5_000_000
    ratio: int = 100
    free: int = 1 << 26


@runtime_checkable
class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Member:
    """size: as the archive says; an archive whose data are longer is damaged."""

    name: str
    size: int
    stream: Readable


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"{path}: cannot be unpacked ({str(error) or type(error).__name__}); delete it and run the command again"
        ) from error


def members(path: Path, patterns: tuple[str, ...], limits: Limits) -> Iterator[Member]:
    """The plain files whose names match one of the patterns (all where there are none), each readable until the next.

    UserError for the first member that is no plain file or folder or leads out of the folder, matching or not.
    """
    with damage_explained(path):
        yield from (_zip if path.suffix == ".zip" else _tar)(path, patterns, limits)


def size_and_count(
    path: Path, patterns: tuple[str, ...], limits: Limits, *, present: Callable[[str], bool]
) -> tuple[int, int] | None:
    """Bytes of the chosen members that are not `present`, and the number of all chosen ones; None for a tar, which would
    have to be read to its end."""
    if path.suffix != ".zip":
        return None
    with damage_explained(path), zipfile.ZipFile(path) as archive:
        chosen = list(_zip_entries(path, archive, patterns, limits))
        return sum(entry.file_size for entry in chosen if not present(entry.filename)), len(chosen)


def _zip(path: Path, patterns: tuple[str, ...], limits: Limits) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in list(_zip_entries(path, archive, patterns, limits)):
            with archive.open(entry) as stream:
                yield Member(name=entry.filename, size=entry.file_size, stream=stream)


def _zip_entries(
    path: Path, archive: zipfile.ZipFile, patterns: tuple[str, ...], limits: Limits
) -> Iterator[zipfile.ZipInfo]:
    guard = _Guard(path, limits)
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)  # zero where the archive was not made on Unix
        guard.check(entry.filename, entry.file_size, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        if not entry.is_dir() and _chosen(entry.filename, patterns):
            yield entry


def _tar(path: Path, patterns: tuple[str, ...], limits: Limits) -> Iterator[Member]:
    guard = _Guard(path, limits)
    with tarfile.open(path, "r:*") as archive:
        for entry in tar_members(archive):
            guard.check(entry.name, entry.size, plain=entry.isreg() or entry.isdir())
            if entry.isreg() and _chosen(entry.name, patterns):
                stream = archive.extractfile(entry)
                assert stream is not None  # it is a plain file
                yield Member(name=entry.name, size=entry.size, stream=stream)


def _chosen(name: str, patterns: tuple[str, ...]) -> bool:
    name = name.removeprefix("./")
    if not patterns:
        return not name.startswith("__MACOSX/") and name.rpartition("/")[2] != ".DS_Store"
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class _Guard:
    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.most = limits.free + limits.ratio * path.stat().st_size
        self.count = self.total = 0
        self.names: set[str] = set()

    def check(self, name: str, size: int, *, plain: bool) -> None:
        place = f"{self.path}, member {name[:200]!r}"
        if not plain:
            raise UserError(f"{place}: a link or device, which data sets do not need; nothing was unpacked from it")
        # the names "." and "./" stand for the folder itself
        inside(self.path.parent, name.removeprefix("./") or ".", place=str(self.path), follow_symlinks=True)
        if name in self.names and not name.endswith("/"):
            raise UserError(f"{place}: it appears twice; nothing was unpacked from it")
        self.names.add(name)
        self.count += 1
        self.total += size
        if self.count > self.limits.members:
            raise UserError(f"{self.path}: more than {self.limits.members} members; this is no archive of a data set")
        if self.total > self.most:
            raise UserError(
                f"{self.path}: {readable_bytes(self.path.stat().st_size)} would become more than "
                f"{readable_bytes(self.most)}; this is no archive of a data set but made to fill the disk"
            )
