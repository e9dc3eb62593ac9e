"""Reading what others wrote: paths that stay inside the data set's folder, JSON and text that may be damaged.

Annotations are not trusted. Their paths are relative, without "..", and end under the root also after symbolic links;
every error names the file and the place in it, and its kind (vlp/data/issues.py).
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from vlp.data.issues import DataError, Faults, LeftOut

MAX_JSON_BYTES = 4 << 30
_MEMBER = re.compile(r"!\d+\+\d+/")  # reads as a file within a tar
MAX_ID = 1 << 62  # a batch holds ids as int64


class MissingFile(FileNotFoundError):
    kind = "missing file"


@lru_cache(maxsize=1 << 14)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


class Folders:
    """What lies in folders, each listed once: of a million files, none is asked for by a call of its own."""

    def __init__(self) -> None:
        # by folder, whether each name is a symbolic link; None = there is no such folder
        self._listed: dict[str, dict[str, bool] | None] = {}

    def _names(self, folder: str) -> dict[str, bool] | None:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except FileNotFoundError:
                self._listed[folder] = None
            except OSError:  # it may not be listed, and its files may yet be opened
                self._listed[folder] = {}
        return self._listed[folder]

    def is_link(self, folder: str, name: str) -> bool:
        names = self._names(folder)
        if names is None:
            return False
        # a file system may find a name that is written otherwise
        return names[name] if name in names else os.path.islink(f"{folder}/{name}")

    def is_file(self, path: str) -> bool:
        """A name that is listed may still be that of a folder, which is found when it is opened."""
        folder, _, name = path.rpartition("/")
        names = self._names(folder)
        return names is not None and (names.get(name) is False or os.path.isfile(path))


@lru_cache(maxsize=1 << 14)
def _within(folder: str, root: str) -> Path | None:
    """The folder, if it lies in root also after symbolic links. Its parts are found once for all of its files."""
    real, top = _real(folder), _real(root)
    return Path(folder) if real == top or real.startswith(top.rstrip(os.sep) + os.sep) else None


def inside(
    root: Path, relative: object, *, place: str, follow_symlinks: bool = False, folders: Folders | None = None
) -> Path:
    """`root/relative`, or a DataError that names `place` when it is no plain relative path or leads out of `root`."""
    if (
        not isinstance(relative, str)
        or not 0 < len(relative) <= 1024
        or "\0" in relative
        or "\\" in relative
        or ("!" in relative and _MEMBER.search(relative))
    ):
        message = f"{place}: {str(relative)[:80]!r} is no file name; give a relative path with forward slashes"
        raise DataError("not a file name", message)
    if relative[0] == "/" or relative[1:2] == ":" or (".." in relative and ".." in relative.split("/")):
        message = f"{place}: the path {relative!r} leads out of {root}; give one relative to it, without '..'"
        raise DataError("path outside the root", message)
    top = str(root)
    folder, _, name = f"{top}/{relative}".rpartition("/")
    if follow_symlinks:
        return Path(folder, name)
    found = _within(folder, top)
    if folders.is_link(folder, name) if folders is not None else os.path.islink(f"{folder}/{name}"):
        real = _real(top).rstrip(os.sep) + os.sep
        found = found if os.path.realpath(f"{folder}/{name}").startswith(real) else None
    if found is None:
        message = (
            f"{place}: {relative!r} is a symbolic link out of {root}; if you trust it set data.follow_symlinks=true"
        )
        raise DataError("symbolic link out of the root", message)
    return found / name


def existing(path: Path, *, what: str, fix: str = "see the comments in conf/data for the expected layout") -> Path:
    if not path.exists():
        raise MissingFile(f"{what} is missing: there is no {path}; {fix}")
    return path


def with_gzip(path: Path) -> Path:
    """The file itself, or where it is missing its compressed twin `<name>.gz` if that is there."""
    twin = path.with_name(f"{path.name}.gz")
    return twin if not path.exists() and twin.exists() else path


def read_text(path: Path, *, what: str, max_bytes: int = MAX_JSON_BYTES) -> str:
    """UTF-8, with or without a byte-order mark; a name that ends in .gz is decompressed."""
    existing(path, what=what)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            data = stream.read(max_bytes + 1)  # a small file may hold far more when it is decompressed
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"{path}: cannot be decompressed ({error}); the file may be cut off"
        raise DataError("cannot be decompressed", message) from error
    except OSError as error:
        raise DataError("file cannot be read", f"{path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise DataError("file too large", f"{path}: more than the limit of {max_bytes} bytes of text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path}: byte {error.start} is not UTF-8; convert the file, for example with iconv -t utf-8"
        raise DataError("not UTF-8", message) from error


def read_lines(path: Path, *, what: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and the lines that are not blank."""
    # not splitlines(): captions may hold characters such as U+2028 that it takes for line ends
    for number, line in enumerate(read_text(path, what=what).split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_json(path: Path, *, what: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    text = read_text(path, what=what, max_bytes=max_bytes)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode())
        message = f"{path}: not valid JSON at byte {offset} ({error.msg}); the file may be cut off"
        raise DataError("not valid JSON", message) from error
    except RecursionError as error:
        raise DataError("not valid JSON", f"{path}: JSON nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError("not valid JSON", f"{path}: {error}") from error


def json_lines(path: Path, *, what: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file with "file, line n"."""
    for number, line in read_lines(path, what=what):
        place, row = f"{path}, line {number}", None
        with faults.each():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError("not valid JSON", f"{place}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                message = f'{place}: expected an object such as {{"image": …, "caption": …}}'
                raise DataError("unexpected structure", message)
        if isinstance(row, dict):
            yield place, row


def records(value: object, key: str, *, place: object) -> list[dict[str, Any]]:
    """The list of objects under `key` of an object of a JSON file."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError("unexpected structure", f"{place}: expected an object with a list of objects under {key!r}")
    return found


def listed(value: object, *, place: object) -> list[dict[str, Any]]:
    """The objects of a JSON file that is a list of them."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError("unexpected structure", f"{place}: expected a list of objects")
    return value


def is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ID


def whole(value: object, *, what: str, place: object) -> int:
    """The number of an id: 7 or "7"."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if not is_id(value):
        raise DataError("id is no whole number", f"{place}: {what} must be a whole number, not {str(value)[:80]!r}")
    return value


def clean_captions(
    captions: Iterable[object], *, place: str, training: bool, left_out: LeftOut | None = None
) -> tuple[str, ...]:
    """White space made single. Empty captions are left out of training, where `left_out` counts them, and an error in
    evaluation."""
    kept = []
    for caption in captions:
        if not isinstance(caption, str):
            message = f"{place}: a caption must be a text, not {type(caption).__name__}"
            raise DataError("caption is no text", message)
        words = " ".join(caption.split())
        if not words.isascii() and any("\ud800" <= letter <= "\udfff" for letter in words):
            raise DataError("half a character", f"{place}: half of a surrogate pair in a caption; write it as UTF-8")
        if words:
            kept.append(words)
        elif not training:
            message = f"{place}: empty caption in evaluation data, which would change the metric; correct the file"
            raise DataError("empty caption", message)
        elif left_out is not None:
            left_out.add("empty caption", place)
    return tuple(kept)
