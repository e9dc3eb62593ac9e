"""Shards where they are: a folder of this machine, or anything that fsspec opens (s3://, gs://, https://, …).

A remote shard is fetched whole into a cache folder when its first sample is asked for, once for all processes of the
machine, checked against the manifest, and removed when newer ones need its place.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vlp.data.faults import DataError
from vlp.data.files import inside
from vlp.data.tar.manifest import Shard

CHUNK = 16 << 20  # bytes of a request, each tried again by itself
TRIES = 5
WAIT = 0.5  # seconds before the second try, doubled with each further one
LARGEST_TEXT = 1 << 30  # bytes of a manifest


class ShardStore:
    """root: folder or URL.  cache: where fetched shards lie.  cache_bytes: of all of them together.
    follow_symlinks: allow links that lead out of a local root."""

    def __init__(self, root: str, *, cache: Path, cache_bytes: int, follow_symlinks: bool = False) -> None:
        self.root = root.removeprefix("file://").rstrip("/") or "/"
        self.remote = "://" in self.root
        self.cache_bytes, self.follow_symlinks = cache_bytes, follow_symlinks
        self.cache = cache.expanduser() / hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._system: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}  # connections do not go to other processes

    def where(self, name: str) -> str:
        """For messages; without the user and password that a URL may hold."""
        scheme, separator, rest = self.root.partition("://")
        return f"{scheme}{separator}{rest.rpartition('@')[2] if separator else rest}/{name}"

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""
        if not self.remote:
            path = Path(self.root) / name
            return path.stat().st_size if path.is_file() else None
        system, root = self._open()
        try:
            return self._tried(lambda: system.info(f"{root}/{name}"), name).get("size") or 0
        except FileNotFoundError:
            return None

    def read_text(self, name: str) -> str | None:
        """A small file; None where there is none."""
        if (size := self.size(name)) is None:
            return None
        if size > LARGEST_TEXT:
            raise DataError("file too large", f"{self.where(name)}: {size} bytes are more than a manifest has")
        if not self.remote:
            return (Path(self.root) / name).read_text(encoding="utf-8")
        system, root = self._open()
        return self._tried(lambda: system.cat_file(f"{root}/{name}"), name).decode("utf-8")

    def matching(self, pattern: str) -> list[str]:
        """Names below the root that a pattern with * or ? stands for, sorted."""
        if not self.remote:
            return sorted(path.relative_to(self.root).as_posix() for path in Path(self.root).glob(pattern))
        system, root = self._open()
        found = self._tried(lambda: system.glob(f"{root}/{pattern}"), pattern)
        return sorted(str(path).rpartition(root.rstrip("/") + "/")[2] for path in found)

    def local(self, shard: Shard) -> Path:
        """The shard as a file of this machine, fetched if it has to be.  Raises DataError with its address."""
        if not self.remote:
            return inside(Path(self.root), shard.name, place=self.root, follow_symlinks=self.follow_symlinks)
        path = self.cache / shard.name
        if not _touched(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_name(path.name + ".lock")):
                if not _touched(path):  # another process may have fetched it meanwhile
                    self._fetch(shard, path)
        return path

    def index_file(self, shard: Shard) -> Path:
        """Where the index of the shard is kept, also of one in a folder that may not be written to."""
        return self.cache / f"{shard.name}.index.npz"

    # -- remote -----------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Any, str]:
        """fsspec's file system and the root on it, of this process: its connections do not survive a fork."""
        if self._system is None or self._system[0] != os.getpid():
            try:
                import fsspec

                system, root = fsspec.core.url_to_fs(self.root)
            except (ImportError, ValueError) as error:
                raise DataError(
                    "no file system",
                    f"data.root={self.where('')}: {error}; pip install 'vlp[stream]' brings s3:// and http://",
                ) from error
            self._system = os.getpid(), system, root.rstrip("/")
        return self._system[1:]

    def _tried(self, action: Any, name: str) -> Any:
        """The action's result; anything but a missing file is tried again, as a network is not always there."""
        for number in range(TRIES):
            try:
                return action()
            except FileNotFoundError as error:
                if _really_missing(error):
                    raise
                self._wait(number, name, error.__cause__ or error)
            except PermissionError as error:
                raise DataError("no access", f"{self.where(name)}: access is denied ({error})") from error
            except Exception as error:  # each file system has errors of its own
                self._wait(number, name, error)
        raise AssertionError("the last try returns or raises")

    def _wait(self, number: int, name: str, error: BaseException) -> None:
        """Before the next try; after the last one the error is told."""
        if number == TRIES - 1:
            told = f"{self.where(name)}: not readable after {TRIES} tries ({type(error).__name__})"
            raise DataError("shard not readable", told) from error
        time.sleep(WAIT * 2**number)

    def _fetch(self, shard: Shard, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        for number in (1, 2):
            size = self.size(shard.name)
            if size is None:
                raise DataError("missing shard", f"there is no {self.where(shard.name)}")
            self._make_room(size)
            digest = self._write(shard, part, size)
            written = part.stat().st_size
            if (shard.bytes in (None, written)) and (shard.sha256 in (None, digest)):
                os.replace(part, path)
                return
            part.unlink()
            if number == 2:
                raise DataError(
                    "shard changed",
                    f"{self.where(shard.name)}: {written} bytes with sha256 {digest[:12]}…, the manifest says {shard.bytes} "
                    f"and {str(shard.sha256)[:12]}…; put the right file there, or write its manifest anew",
                )

    def _write(self, shard: Shard, part: Path, size: int) -> str:
        digest = hashlib.sha256()
        with part.open("wb") as stream:
            for start in range(0, max(size, 1), CHUNK):
                data = self._tried(partial(self._chunk, shard.name, start, min(start + CHUNK, size)), shard.name)
                digest.update(data)
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def _chunk(self, name: str, start: int, end: int) -> bytes:
        """The bytes from start to end: a server may answer with less, or with the whole file."""
        system, root = self._open()
        data: bytes = system.cat_file(f"{root}/{name}", start=start, end=end or None)
        if len(data) > end - start > 0:
            data = data[start:end]
        if 0 < end - start != len(data):
            raise OSError(f"{len(data)} bytes came where {end - start} were asked for")
        return data

    def _make_room(self, needed: int) -> None:
        """Removes the shards that were not used for longest; who still reads one keeps it open."""
        found = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.cache.rglob("*.tar"))
        used = sum(size for _, size, _ in found)
        for _, size, path in found:
            if used + needed <= self.cache_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size
        if used + needed > self.cache_bytes:
            raise DataError(
                "cache too small", f"a shard of {needed} bytes does not fit into data.cache_bytes={self.cache_bytes}"
            )


def _really_missing(error: FileNotFoundError) -> bool:
    """fsspec's http says so of a server that cannot be reached, too, and names the reason as the cause."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (403, 404, 410)


def _touched(path: Path) -> bool:
    """Whether the file is there; if so, it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # given back with the file, also by a process that is killed
        yield
