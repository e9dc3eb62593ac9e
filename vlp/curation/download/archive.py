"""The members of a zip or tar archive; name, kind and size of each are checked before a byte of it is used."""

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

from vlp.data.annotation_files import path_below_root
from vlp.system.compat.stdlib import tar_members
from vlp.system.errors import UserError
from vlp.system.units import readable_bytes

DAMAGE_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError,  # zipfile: an unknown compression, a password
)  # fmt: skip


# data sets stay far below these limits, archives made to fill the disk do not
MAX_MEMBERS = 5_000_000
MAX_RATIO = 100  # unpacked bytes per byte of the archive; annotations in JSON reach 32
EXEMPT_BYTES = 1 << 26  # unpacked bytes that are always allowed


@dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """size: as the archive's header says, which may be wrong.  read: at most so many bytes of the member."""

    name: str
    size: int
    read: Callable[[int], bytes]


@contextmanager
def damage_as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"{path}: cannot be unpacked ({str(error) or type(error).__name__}); delete it and run the command again"
        ) from error


def iterate_members(path: Path, patterns: tuple[str, ...]) -> Iterator[ArchiveMember]:
    """The regular files whose names match one of the patterns (all if there are none), each readable until the next.

    Raises UserError for a damaged archive, and for the first member, matching or not, that is not a regular file or folder,
    leads out of the folder, or exceeds the limits.
    """
    with damage_as_user_error(path):
        yield from (_zip_members if path.suffix == ".zip" else _tar_members)(path, patterns)


def missing_bytes_and_count(
    path: Path, patterns: tuple[str, ...], *, present: Callable[[str], bool]
) -> tuple[int, int] | None:
    """Bytes of the selected members that are not `present`, and the number of all selected ones; None for a tar, which would
    have to be read to its end."""
    if path.suffix != ".zip":
        return None
    with damage_as_user_error(path), zipfile.ZipFile(path) as archive:
        selected = list(_zip_entries(path, archive, patterns))
        return sum(entry.file_size for entry in selected if not present(entry.filename)), len(selected)


def _zip_members(path: Path, patterns: tuple[str, ...]) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(path) as archive:
        for entry in list(_zip_entries(path, archive, patterns)):
            with archive.open(entry) as stream:
                yield ArchiveMember(name=entry.filename, size=entry.file_size, read=stream.read)


def _zip_entries(path: Path, archive: zipfile.ZipFile, patterns: tuple[str, ...]) -> Iterator[zipfile.ZipInfo]:
    guard = _MemberGuard(path)
    for entry in archive.infolist():
        file_type = stat.S_IFMT(entry.external_attr >> 16)  # zero where the archive was not made on Unix
        guard.check(entry.filename, entry.file_size, regular=file_type in (0, stat.S_IFREG, stat.S_IFDIR))
        if not entry.is_dir() and _is_selected(entry.filename, patterns):
            yield entry


def _tar_members(path: Path, patterns: tuple[str, ...]) -> Iterator[ArchiveMember]:
    guard = _MemberGuard(path)
    with tarfile.open(path, "r:*") as archive:
        for entry in tar_members(archive):
            guard.check(entry.name, entry.size, regular=entry.isreg() or entry.isdir())
            if entry.isreg() and _is_selected(entry.name, patterns):
                stream = archive.extractfile(entry)
                assert stream is not None  # it is a regular file
                yield ArchiveMember(name=entry.name, size=entry.size, read=stream.read)


def _is_selected(name: str, patterns: tuple[str, ...]) -> bool:
    name = name.removeprefix("./")
    if not patterns:
        return not name.startswith("__MACOSX/") and name.rpartition("/")[2] != ".DS_Store"
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class _MemberGuard:
    """Checks the members of one archive in turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.max_bytes = EXEMPT_BYTES + MAX_RATIO * path.stat().st_size
        self.count = self.total = 0
        self.names: set[str] = set()

    def check(self, name: str, size: int, *, regular: bool) -> None:
        location = f"{self.path}, member {name[:200]!r}"
        if not regular:
            raise UserError(
                f"{location}: a link or device, which data sets do not contain; nothing was unpacked from it"
            )
        # the names "." and "./" stand for the folder itself
        path_below_root(self.path.parent, name.removeprefix("./") or ".", location=str(self.path), follow_symlinks=True)
        if name in self.names and not name.endswith("/"):
            raise UserError(f"{location}: it appears twice; nothing was unpacked from it")
        self.names.add(name)
        self.count += 1
        self.total += size
        if self.count > MAX_MEMBERS:
            raise UserError(f"{self.path}: more than {MAX_MEMBERS} members; this is not an archive of a data set")
        if self.total > self.max_bytes:
            raise UserError(
                f"{self.path}: {readable_bytes(self.path.stat().st_size)} would become more than "
                f"{readable_bytes(self.max_bytes)}; this is not an archive of a data set but made to fill the disk"
            )
