"""Where shards are stored: a folder of this machine, or any address that fsspec opens (s3://, gs://, https://, …).

A remote shard is downloaded as a complete file into a cache folder when its first sample is read, once for all processes of
the machine, and checked against the manifest. Newer shards may replace it; it is then downloaded again when needed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import path_below_root
from vlp.data.issues import DataError
from vlp.data.shards.manifest import Shard
from vlp.system.locks import exclusive_lock

CHUNK_BYTES = 16 << 20  # of each request, which is retried alone
MAX_TRIES = 7
FIRST_WAIT_S = 0.5  # before the second try, doubled before each further one: half a minute in total
MAX_TEXT_BYTES = 1 << 30  # of a manifest
ABANDONED_AFTER_S = 3600  # without progress, after which an incomplete download may be removed


class ShardStore:
    """root: folder or URL.  cache: folder of downloaded shards.  cache_bytes: limit for all of them together.
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
        return {**self.__dict__, "_system": None}  # connections belong to one process

    def address(self, name: str) -> str:
        """The path or URL of a file for messages, without the user and password of the URL."""
        scheme, separator, rest = self.root.partition("://")
        if not separator:
            return f"{self.root}/{name}"
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}/{name}"

    def file_size(self, name: str) -> int | None:
        """Bytes; None if there is no such file."""
        if not self.remote:
            path = Path(self.root) / name
            return path.stat().st_size if path.is_file() else None
        info = self._remote_info(name)
        if info is not None and not isinstance(info.get("size"), int):
            raise DataError(
                "size unknown", f"{self.address(name)}: the server does not report its size, which the download needs"
            )
        return None if info is None else int(info["size"])

    def read_text(self, name: str) -> str | None:
        """The content of a small file; None if there is no such file."""
        if (size := self.file_size(name)) is None:
            return None
        if size > MAX_TEXT_BYTES:
            message = f"{self.address(name)}: {size} bytes are more than a manifest can have; make it again with `vlp data index`"
            raise DataError("file too large", message)
        if not self.remote:
            return (Path(self.root) / name).read_text(encoding="utf-8-sig")
        system, root = self._open_file_system()
        return self._retry(lambda: system.cat_file(f"{root}/{name}"), name).decode("utf-8-sig")

    def list_matching(self, pattern: str) -> list[str]:
        """Names below the root that match a pattern with * or ?, sorted."""
        if not self.remote:
            return sorted(path.relative_to(self.root).as_posix() for path in Path(self.root).glob(pattern))
        system, root = self._open_file_system()
        matches = self._retry(lambda: system.glob(f"{root}/{pattern}"), pattern)
        return sorted(str(path).rpartition(root + "/")[2] for path in matches)

    def local_path(self, shard: Shard) -> Path:
        """The shard's file on this machine, downloaded if needed.  Raises DataError with its address."""
        if not self.remote:
            return path_below_root(
                Path(self.root), shard.name, location=self.root, follow_symlinks=self.follow_symlinks
            )
        path = self.cache / self._version_folder(shard) / shard.name
        if not mark_used(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(path.with_name(path.name + ".lock")):
                if not mark_used(path):  # another process may have downloaded it meanwhile
                    self._download_verified(shard, path)
        return path

    def index_path(self, shard: Shard) -> Path:
        """The file of the shard's index: in the cache, since the shard's folder may be read-only."""
        folder = self.cache / self._version_folder(shard) if self.remote else self.cache
        return folder / f"{shard.name}.index.npz"

    def stamp(self, path: Path) -> list[int]:
        """Size and modification time, which an index must match; 0 for downloaded files, whose time is that of last use."""
        status = path.stat()
        return [status.st_size, 0 if self.remote else status.st_mtime_ns]

    # -- remote -----------------------------------------------------------------------------------------------------

    def _version_folder(self, shard: Shard) -> str:
        """The cache folder of the shard's present version, by the manifest's checksum or else by the server's metadata, so
        that a shard that was replaced at its address is downloaded again."""
        if shard.sha256 is not None:
            return shard.sha256[:12]
        if shard.name not in self._versions:
            info = self._remote_info(shard.name) or {}
            known = [str(info.get(key)) for key in ("size", "ETag", "etag", "LastModified", "mtime")]
            self._versions[shard.name] = hashlib.sha256(" ".join(known).encode()).hexdigest()[:12]
        return self._versions[shard.name]

    def _remote_info(self, name: str) -> dict[str, Any] | None:
        """The file system's metadata of a file; None if there is no such file."""
        system, root = self._open_file_system()
        try:
            return self._retry(lambda: system.info(f"{root}/{name}"), name)
        except FileNotFoundError:
            return None

    def _open_file_system(self) -> tuple[Any, str]:
        """fsspec's file system and the root in it, for this process, since connections do not survive a fork."""
        if self._system is None or self._system[0] != os.getpid():
            try:
                import fsspec

                system, root = fsspec.core.url_to_fs(self.root)
            except (ImportError, ValueError) as error:
                raise DataError(
                    "no file system",
                    f"data.root={self.address('')}: {error}; for s3:// and http:// run pip install 'vlp[stream]'",
                ) from error
            self._system = os.getpid(), system, root.rstrip("/")
        return self._system[1:]

    def _retry(self, action: Callable[[], Any], name: str) -> Any:
        """The action's result; it is retried after every error but a missing file or denied access."""
        for number in range(MAX_TRIES):
            try:
                return action()
            except Exception as error:  # each file system has its own errors
                status = getattr(error, "status", getattr(error.__cause__, "status", None))
                if isinstance(error, PermissionError) or status in (401, 403):
                    message = f"{self.address(name)}: access is denied{f' ({status})' if status else ''}; check the credentials"
                    raise DataError("no access", message) from error
                if isinstance(error, FileNotFoundError) and _is_missing(error, status):
                    raise
                if number == MAX_TRIES - 1:
                    reason = f"{type(error.__cause__ or error).__name__}{f' {status}' if status else ''}"
                    message = f"{self.address(name)}: not readable after {MAX_TRIES} tries ({reason}); check the server"
                    raise DataError("shard not readable", message) from error
                time.sleep(FIRST_WAIT_S * 2**number)
        raise AssertionError("the last try returns or raises")

    def _download_verified(self, shard: Shard, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        for number in (1, 2):
            size = self.file_size(shard.name)
            if size is None:
                raise DataError("missing shard", f"there is no {self.address(shard.name)}")
            self._reserve_space(size, part)
            digest = self._download(shard, part, size)
            if shard.bytes in (None, size) and shard.sha256 in (None, digest):
                os.replace(part, path)
                return
            part.unlink()
            if number == 2:
                raise DataError(
                    "shard changed",
                    f"{self.address(shard.name)}: {size} bytes with sha256 {digest[:12]}…, the manifest says {shard.bytes} "
                    f"and {str(shard.sha256)[:12]}…; restore the file, or write its manifest again with `vlp data index`",
                )

    def _download(self, shard: Shard, part: Path, size: int) -> str:
        """Downloads a shard into `part`, which already has its size; returns the sha256."""
        system, root = self._open_file_system()
        digest, start = hashlib.sha256(), 0
        with part.open("r+b") as stream:
            while start < size:
                end = min(start + CHUNK_BYTES, size)
                get = partial(system.cat_file, f"{root}/{shard.name}", start=start, end=end)
                data = self._retry(partial(_read_range, get, end - start, size), shard.name)
                if len(data) > end - start:  # the server ignored the range and sent the complete file
                    data = data[start:]
                digest.update(data)
                stream.write(data)
                start += len(data)
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def _reserve_space(self, needed: int, part: Path) -> None:
        """Creates `part` with its full size, which other processes then count, and removes the least recently used shards."""
        if needed > self.cache_bytes:
            raise DataError(
                "cache too small",
                f"a shard of {needed} bytes does not fit into data.cache_bytes={self.cache_bytes}; raise it",
            )
        with exclusive_lock(self.cache / ".room.lock"):
            part.unlink(missing_ok=True)
            files = []
            for path in self.cache.rglob("*"):
                if path.is_file() and path.suffix not in (".lock", ".npz"):
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
            used = sum(size for _, size, _ in files)
            for used_at, size, path in sorted(files):
                if used + needed <= self.cache_bytes:
                    break
                if path.suffix != ".part" or used_at < time.time() - ABANDONED_AFTER_S:
                    path.unlink(missing_ok=True)
                    used -= size
            with part.open("wb") as stream:
                stream.truncate(needed)


def _read_range(read: Callable[[], bytes], range_size: int, file_size: int) -> bytes:
    data = read()
    if len(data) not in (range_size, file_size):
        raise OSError(f"received {len(data)} bytes where {range_size} were requested")
    return data


def _is_missing(error: FileNotFoundError, status: int | None) -> bool:
    """fsspec's http raises FileNotFoundError also if the server cannot be reached, with the reason as the cause."""
    return error.__cause__ is None or isinstance(error.__cause__, FileNotFoundError) or status in (404, 410)


def mark_used(path: Path) -> bool:
    """Whether the file exists; if so, its modification time becomes now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # the file exists and belongs to another user
        return True
    return True
