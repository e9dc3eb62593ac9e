"""downloads/manifest.json below the root: what is complete, so that nothing is downloaded, checked or unpacked twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from vlp.curation.download.catalogue import DOWNLOADS_FOLDER, RemoteFile, redact_url
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError


class DownloadManifest:
    """files: {path: {url, bytes, mtime_ns, sha256, md5}};  unpacked: {key: {url, sha256, folders: {folder: files}}}."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / DOWNLOADS_FOLDER / "manifest.json"
        self.lock = threading.Lock()
        self.files: dict[str, dict[str, Any]] = {}
        self.unpacked: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.files, self.unpacked = dict(content["files"]), dict(content["unpacked"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: damaged; delete it, then the existing files are checked again") from error

    def is_downloaded(self, file: RemoteFile) -> bool:
        """Whether it is complete, unchanged since, and the version that the catalogue describes."""
        record, path = self.files.get(file.path), self.root / file.path
        if record is None or not path.is_file():
            return False
        status = path.stat()
        unchanged = (status.st_size, status.st_mtime_ns) == (record["bytes"], record["mtime_ns"])
        return unchanged and _has_version(record, file)

    def is_unpacked(self, file: RemoteFile) -> bool:
        """Whether all members still exist, by their number in each folder, and `provides` by name."""
        record = self.unpacked.get(_unpacking_key(file))
        if record is None or not _has_version(record, file) or missing_paths(file, self.root):
            return False
        return all(_count_entries(self.root / folder) >= count for folder, count in record["folders"].items())

    def add_file(self, file: RemoteFile, sha256: str) -> None:
        status = (self.root / file.path).stat()
        record = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256, "md5": file.md5}
        with self.lock:
            self.files[file.path] = {"url": redact_url(file.url), **record}
            self._save()

    def add_unpacked(self, file: RemoteFile, folders: dict[str, int]) -> None:
        """folders: the number of members in each folder, by its path relative to the root."""
        with self.lock:
            archive = self.files[file.path]
            record = {
                "url": redact_url(file.url),
                "sha256": archive["sha256"],
                "md5": archive["md5"],
                "folders": folders,
            }
            self.unpacked[_unpacking_key(file)] = record
            self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps({"files": self.files, "unpacked": self.unpacked}, indent=1))


def _unpacking_key(file: RemoteFile) -> str:
    return " ".join([file.path, "to", str(file.unpack), *file.members])


def _has_version(record: dict[str, Any], file: RemoteFile) -> bool:
    """By the catalogue's checksums; where it has none, by the file name in the address."""
    pairs = [(file.sha256, record["sha256"]), (file.md5, record["md5"])]
    checksums = [pair for pair in pairs if pair[0]]
    if checksums:
        return all(expected == recorded for expected, recorded in checksums)
    return bool(record["url"].rpartition("/")[2] == redact_url(file.url).rpartition("/")[2])


def missing_paths(file: RemoteFile, root: Path) -> list[str]:
    """The paths that the file provides according to the catalogue and that do not exist."""
    return [
        name
        for name in file.provides
        if not (_count_entries(root / name) if name.endswith("/") else (root / name).exists())
    ]


def _count_entries(folder: Path) -> int:
    try:
        return sum(1 for _ in os.scandir(folder))
    except OSError:
        return 0
