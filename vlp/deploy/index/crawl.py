"""The files below some folders, in a fixed order, each once.

Hidden names are passed over. Links to folders are followed after everything that is reached without them, and a folder that was
visited already, whatever its path then was, is not entered again: loops end, and photos keep their plain paths. What cannot be
read is reported, so that its photos are not taken for deleted.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlp.system.errors import UserError


@dataclass(frozen=True)
class FoundFile:
    """size: bytes.  changed: modification time in ns."""

    path: str
    size: int
    changed: int


@dataclass
class Crawl:
    """excluded: folders that are not entered, such as the index itself.  unreadable: (path, reason), filled while iterating.
    hidden: whether to take hidden names too."""

    roots: Sequence[str]
    excluded: Sequence[str] = ()
    hidden: bool = False
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[FoundFile]:
        self.unreadable.clear()
        visited: set[tuple[int, int]] = {key for path in self.excluded if (key := _identity(path))}
        folders, linked = deque(self.roots), deque[str]()
        while folders or linked:
            folder = folders.popleft() if folders else linked.popleft()
            key = _identity(folder)
            if key is None or key in visited:
                continue
            visited.add(key)
            names, links, files = self._entries(folder)
            folders.extendleft(reversed(names))
            linked.extend(links)
            yield from files

    def _entries(self, folder: str) -> tuple[list[str], list[str], list[FoundFile]]:
        """Folders, links to folders, and files of a folder, each in order of name."""
        folders, links, files = list[str](), list[str](), list[FoundFile]()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.unreadable.append((folder, f"folder not readable ({error.strerror})"))
            return folders, links, files
        for entry in found:
            if not self.hidden and (entry.name.startswith(".") or entry.name == "__MACOSX"):
                continue
            try:
                entry.path.encode()
                status = entry.stat()
            except UnicodeEncodeError:
                shown = os.fsencode(entry.path).decode(errors="backslashreplace")
                self.unreadable.append((shown, "its name is not UTF-8; rename it"))
                continue
            except OSError as error:
                reason = "a link that leads nowhere" if entry.is_symlink() else str(error.strerror)
                self.unreadable.append((entry.path, reason))
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif stat.S_ISREG(status.st_mode):
                files.append(FoundFile(entry.path, status.st_size, status.st_mtime_ns))
        return folders, links, files


def check_roots(folders: Sequence[Path]) -> list[str]:
    """Absolute paths, none below another.  Raises FileNotFoundError, UserError where one is no folder."""
    roots: list[str] = []
    for folder in sorted({os.path.abspath(folder.expanduser()) for folder in folders}):
        if not os.path.exists(folder):
            raise FileNotFoundError(f"{folder}: there is no such folder; is a drive not connected?")
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: is a file; give the folder of the photos")
        if not any(is_below(folder, root) for root in roots):
            roots.append(folder)
    return roots


def is_below(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies in it, by the words of both."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and number of the folder itself, behind any links; None if it is gone."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
