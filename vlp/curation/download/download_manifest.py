"""downloads/manifest.json below the root: what is complete, so that nothing is fetched, checked or unpacked twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from vlp.curation.download.catalogue import DOWNLOADS, RemoteFile, public
from vlp.system.atomic import atomic_write_text
from vlp.system.errors import UserError


class Manifest:
    """files: {path: {url, bytes, mtime_ns, sha256, md5}};  unpacked: {key: {url, sha256, folders: {folder: files}}}."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / DOWNLOADS / "manifest.json"
        self.lock = threading.Lock()
        self.files: dict[str, dict[str, Any]] = {}
        self.unpacked: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.files, self.unpacked = dict(content["files"]), dict(content["unpacked"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: damaged; delete it, and what is there is checked again") from error

    def has_file(self, file: RemoteFile) -> bool:
        """Complete, untouched since, and what the catalogue now describes."""
        record, path = self.files.get(file.path), self.root / file.path
        if record is None or not path.is_file():
            return False
        status = path.stat()
        return (status.st_size, status.st_mtime_ns) == (record["bytes"], record["mtime_ns"]) and self._fits(
            file, record
        )

    def has_unpacked(self, file: RemoteFile) -> bool:
        """The members are all there still, by number in each folder, and `provides` by name."""
        record = self.unpacked.get(self.key(file))
        if record is None or not self._fits(file, record):
            return False
        return not missing(file, self.root) and all(
            _entries(self.root / folder) >= count for folder, count in record["folders"].items()
        )

    def add_file(self, file: RemoteFile, sha256: str) -> None:
        status = (self.root / file.path).stat()
        record = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256, "md5": file.md5}
        with self.lock:
            self.files[file.path] = {"url": public(file.url), **record}
            self._save()

    def add_unpacked(self, file: RemoteFile, folders: dict[str, int]) -> None:
        """folders: how many members each folder got, by their paths relative to the root."""
        with self.lock:
            archive = self.files[file.path]
            record = {"url": public(file.url), "sha256": archive["sha256"], "md5": archive["md5"], "folders": folders}
            self.unpacked[self.key(file)] = record
            self._save()

    @staticmethod
    def key(file: RemoteFile) -> str:
        return " ".join([file.path, "to", str(file.unpack), *file.members])

    @staticmethod
    def _fits(file: RemoteFile, record: dict[str, Any]) -> bool:
        """By the checksums that both know; where none is known, by the address."""
        pairs = [(file.sha256, record["sha256"]), (file.md5, record["md5"])]
        known = [(wanted, found) for wanted, found in pairs if wanted]
        if known:
            return all(wanted == found for wanted, found in known)
        return bool(record["url"].rpartition("/")[2] == public(file.url).rpartition("/")[2])

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps({"files": self.files, "unpacked": self.unpacked}, indent=1))


def missing(file: RemoteFile, root: Path) -> list[str]:
    """What the catalogue says that the file provides, and is not there."""
    return [
        name for name in file.provides if not (_entries(root / name) if name.endswith("/") else (root / name).exists())
    ]


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in os.scandir(folder))
    except OSError:
        return 0
