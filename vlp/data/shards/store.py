"""Shards where they are: a folder of this machine, or anything that fsspec opens (s3://, gs://, https://, …).

A remote shard is fetched whole into a cache folder when its first sample is asked for, once for all processes of the
machine, checked against the manifest, and removed when newer ones need its place. Who asks for it again fetches it again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import inside
from vlp.data.issues import DataError
from vlp.data.shards.manifest import Shard
from vlp.system.locks import exclusive_lock

CHUNK = 16 << 20  # bytes of a request, each tried again by itself
TRIES = 7
WAIT = 0.5  # seconds before the second try, doubled with each further one: half a minute in all
LARGEST_TEXT = 1 << 30  # bytes of a manifest
ABANDONED = 3600  # seconds after which a download that nobody goes on with may be removed


class ShardStore:
    """root: folder or URL.  cache: where fetched shards lie.  cache_bytes: of all of them together.
    follow_symlinks: allow links that lead out of a local root."""

    def __init__(self, root: str, *, cache: Path, cache_bytes: int, follow_symlinks: bool = False) -> None:
        self.root = root.removeprefix("file://").rstrip("/") or "/"
        self.remote = "://" in self.root
        if not self.remote:
            self.root = os.path.expanduser(self.root)
        self.cache_bytes, self.follow_symlinks = cache_bytes, follow_symlinks
        self.cache = cache.expanduser() / hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._system: tuple[int, Any, str] | None = None
        self._versions: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}  # connections do not go to other processes

    def where(self, name: str) -> str:
        """For messages; without the user and password that a URL may hold."""
        scheme, separator, rest = self.root.partition("://")
        if not separator:
            return f"{self.root}/{name}"
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes; None where there is no such file."""
        if not self.remote:
            path = Path(self.root) / name
            return path.stat().st_size if path.is_file() else None
        told = self._told(name)
        if told is not None and not isinstance(told.get("size"), int):
            raise DataError(
                "size unknown", f"{self.where(name)}: the server does not tell its size, which fetching it needs"
            )
        return None if told is None else int(told["size"])

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
        return sorted(str(path).rpartition(root + "/")[2] for path in found)

    def local(self, shard: Shard) -> Path:
        """The shard as a file of this machine, fetched if it has to be.  Raises DataError with its address."""
        if not self.remote:
            return inside(Path(self.root), shard.name, place=self.root, follow_symlinks=self.follow_symlinks)
        path = self.cache / self._version(shard) / shard.name
        if not touched(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(path.with_name(path.name + ".lock")):
                if not touched(path):  # another process may have fetched it meanwhile
                    self._fetch(shard, path)
        return path

    def index_file(self, shard: Shard) -> Path:
        """Where the index of the shard is kept, also of one in a folder that may not be written to."""
        folder = self.cache / self._version(shard) if self.remote else self.cache
        return folder / f"{shard.name}.index.npz"

    def stamp(self, path: Path) -> list[int]:
        """What an index of this file is known by. A fetched file's time is that of its last use."""
        status = path.stat()
        return [status.st_size, 0 if self.remote else status.st_mtime_ns]

    # -- remote -----------------------------------------------------------------------------------------------------

    def _version(self, shard: Shard) -> str:
        """The folder of what the manifest, or else the server, says that the shard is now: one that was replaced at its
        address is another."""
        if shard.sha256 is not None:
            return shard.sha256[:12]
        if shard.name not in self._versions:
            told = self._told(shard.name) or {}
            known = [str(told.get(key)) for key in ("size", "ETag", "etag", "LastModified", "mtime")]
            self._versions[shard.name] = hashlib.sha256(" ".join(known).encode()).hexdigest()[:12]
        return self._versions[shard.name]

    def _told(self, name: str) -> dict[str, Any] | None:
        """What the file system says of a file; None where there is none."""
        system, root = self._open()
        try:
            return self._tried(lambda: system.info(f"{root}/{name}"), name)
        except FileNotFoundError:
            return None

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

    def _tried(self, action: Callable[[], Any], name: str) -> Any:
        """The action's result; anything but a missing file or a refusal is tried again, as a network is not always there."""
        for number in range(TRIES):
            try:
                return action()
            except Exception as error:  # each file system has errors of its own
                status = getattr(error, "status", getattr(error.__cause__, "status", None))
                if isinstance(error, PermissionError) or status in (401, 403):
                    told = f"{self.where(name)}: access is denied{f' ({status})' if status else ''}; look at the credentials"
                    raise DataError("no access", told) from error
                if isinstance(error, FileNotFoundError) and _really_missing(error, status):
                    raise
                if number == TRIES - 1:
                    reason = f"{type(error.__cause__ or error).__name__}{f' {status}' if status else ''}"
                    told = f"{self.where(name)}: not readable after {TRIES} tries ({reason}); is the server there?"
                    raise DataError("shard not readable", told) from error
                time.sleep(WAIT * 2**number)
        raise AssertionError("the last try returns or raises")

    def _fetch(self, shard: Shard, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        for number in (1, 2):
            size = self.size(shard.name)
            if size is None:
                raise DataError("missing shard", f"there is no {self.where(shard.name)}")
            self._make_room(size, part)
            digest = self._write(shard, part, size)
            if shard.bytes in (None, size) and shard.sha256 in (None, digest):
                os.replace(part, path)
                return
            part.unlink()
            if number == 2:
                raise DataError(
                    "shard changed",
                    f"{self.where(shard.name)}: {size} bytes with sha256 {digest[:12]}…, the manifest says {shard.bytes} "
                    f"and {str(shard.sha256)[:12]}…; put the right file there, or write its manifest anew",
                )

    def _write(self, shard: Shard, part: Path, size: int) -> str:
        """Into the file that already has its size; returns the sha256."""
        system, root = self._open()
        digest, start = hashlib.sha256(), 0
        with part.open("r+b") as stream:
            while start < size:
                end = min(start + CHUNK, size)
                get = partial(system.cat_file, f"{root}/{shard.name}", start=start, end=end)
                data = self._tried(partial(_asked_for, get, end - start, size), shard.name)
                if len(data) > end - start:  # the server gave all of it
                    data = data[start:]
                digest.update(data)
                stream.write(data)
                start += len(data)
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def _make_room(self, needed: int, part: Path) -> None:
        """Makes the file at its full size, which others then count, and removes the shards that were not used for longest."""
        if needed > self.cache_bytes:
            raise DataError(
                "cache too small", f"a shard of {needed} bytes does not fit into data.cache_bytes={self.cache_bytes}"
            )
        with exclusive_lock(self.cache / ".room.lock"):
            part.unlink(missing_ok=True)
            found = []
            for path in self.cache.rglob("*"):
                if path.is_file() and path.suffix not in (".lock", ".npz"):
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
            used = sum(size for _, size, _ in found)
            for used_at, size, path in sorted(found):
                if used + needed <= self.cache_bytes:
                    break
                if path.suffix != ".part" or used_at < time.time() - ABANDONED:
                    path.unlink(missing_ok=True)
                    used -= size
            with part.open("wb") as stream:
                stream.truncate(needed)


def _asked_for(get: Callable[[], bytes], wanted: int, whole: int) -> bytes:
    data = get()
    if len(data) not in (wanted, whole):
        raise OSError(f"{len(data)} bytes came where {wanted} were asked for")
    return data


def _really_missing(error: FileNotFoundError, status: int | None) -> bool:
    """fsspec's http says so of a server that cannot be reached, too, and names the reason as the cause."""
    return error.__cause__ is None or isinstance(error.__cause__, FileNotFoundError) or status in (404, 410)


def touched(path: Path) -> bool:
    """Whether the file is there; if so, it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's cache: it is there
        return True
    return True
