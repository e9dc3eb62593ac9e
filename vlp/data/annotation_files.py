"""Reading annotation files: paths that stay inside the data set's folder, JSON and text that may be damaged.

Annotations are not trusted. Their paths are relative, without "..", and stay below the root also after symbolic links;
every error names the file and the location in it, and its kind (vlp/data/issues.py).
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from vlp.data.issues import DataError, Faults, SkippedRecords
from vlp.system.errors import UserError

MAX_JSON_BYTES = 4 << 30
_MEMBER = re.compile(r"!\d+\+\d+/")  # would be read as a member of a tar
MAX_ID = 1 << 62  # ids of a batch are int64


class MissingFile(FileNotFoundError):
    kind = "missing file"


@lru_cache(maxsize=1 << 14)
def _real_path(folder: str) -> str:
    return os.path.realpath(folder)


class FolderListings:
    """Contents of folders, each listed once, so that a million files need no system call each."""

    def __init__(self) -> None:
        # for each folder, whether each name is a symbolic link; None = the folder does not exist
        self._listed: dict[str, dict[str, bool] | None] = {}

    def _list_folder(self, folder: str) -> dict[str, bool] | None:
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    self._listed[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except FileNotFoundError:
                self._listed[folder] = None
            except OSError:  # listing may be forbidden while opening its files is allowed
                self._listed[folder] = {}
        return self._listed[folder]

    def is_link(self, folder: str, name: str) -> bool:
        names = self._list_folder(folder)
        if names is None:
            return False
        # a file system may accept a name in another spelling, such as other upper case
        return names[name] if name in names else os.path.islink(f"{folder}/{name}")

    def is_file(self, path: str) -> bool:
        """Also true for a folder that is listed; opening it then fails."""
        folder, _, name = path.rpartition("/")
        names = self._list_folder(folder)
        return names is not None and (names.get(name) is False or os.path.isfile(path))


@lru_cache(maxsize=1 << 14)
def _folder_below_root(folder: str, root: str) -> Path | None:
    """The folder if it is below root, also after symbolic links; resolved once for all of its files."""
    real, top = _real_path(folder), _real_path(root)
    return Path(folder) if real == top or real.startswith(top.rstrip(os.sep) + os.sep) else None


def strip_root(root: Path, path: str) -> str | None:
    """An absolute path inside `root`, by the names of folders or after symbolic links of `root`, relative to it; else None."""
    for top in dict.fromkeys((os.path.abspath(root), _real_path(str(root)))):
        if path.startswith(top.rstrip(os.sep) + os.sep):
            return path[len(top.rstrip(os.sep)) + 1 :]
    return None


def path_below_root(
    root: Path, relative: object, *, location: str, follow_symlinks: bool = False, folders: FolderListings | None = None
) -> Path:
    """`root/relative`; a DataError with `location` if `relative` is no plain relative path or leads out of `root`."""
    if (
        not isinstance(relative, str)
        or not 0 < len(relative) <= 1024
        or "\0" in relative
        or "\\" in relative
        or ("!" in relative and _MEMBER.search(relative))
    ):
        message = f"{location}: {str(relative)[:80]!r} is not a file name; write a relative path with forward slashes"
        raise DataError("not a file name", message)
    if relative[0] == "/" or relative[1:2] == ":" or (".." in relative and ".." in relative.split("/")):
        message = f"{location}: the path {relative!r} leads out of {root}; write one relative to it, without '..'"
        raise DataError("path outside the root", message)
    top = str(root)
    folder, _, name = f"{top}/{relative}".rpartition("/")
    if follow_symlinks:
        return Path(folder, name)
    folder_path = _folder_below_root(folder, top)
    if folders.is_link(folder, name) if folders is not None else os.path.islink(f"{folder}/{name}"):
        real = _real_path(top).rstrip(os.sep) + os.sep
        folder_path = folder_path if os.path.realpath(f"{folder}/{name}").startswith(real) else None
    if folder_path is None:
        message = (
            f"{location}: {relative!r} is a symbolic link out of {root}; if you trust it set data.follow_symlinks=true"
        )
        raise DataError("symbolic link out of the root", message)
    return folder_path / name


def require_path(
    path: Path, *, description: str, fix: str = "see the comments in conf/data for the expected layout"
) -> Path:
    if not path.exists():
        raise MissingFile(f"{description} is missing: there is no {path}; {fix}")
    return path


def path_or_gzip(path: Path) -> Path:
    """The path, or if it is missing that of the compressed `<name>.gz` if that exists."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if not path.exists() and compressed.exists() else path


def read_text(path: Path, *, description: str, max_bytes: int = MAX_JSON_BYTES) -> str:
    """UTF-8, with or without a byte-order mark; a `.gz` file is decompressed.  Raises MissingFile or DataError."""
    require_path(path, description=description)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            data = stream.read(max_bytes + 1)  # a small compressed file may contain far more
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"{path}: cannot be decompressed ({error}); the file may be cut off"
        raise DataError("cannot be decompressed", message) from error
    except OSError as error:
        raise DataError("file cannot be read", f"{path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise DataError("file too large", f"{path}: more than the limit of {max_bytes} bytes of text; check the file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path}: byte {error.start} is not UTF-8; convert the file, for example with iconv -t utf-8"
        raise DataError("not UTF-8", message) from error


def read_lines(path: Path, *, description: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1."""
    # not splitlines(): captions may contain characters such as U+2028, at which it splits
    for number, line in enumerate(read_text(path, description=description).split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file.  Raises UserError if it names a key twice, where json would keep the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise UserError(f"an object names the key {repeated[0][:80]!r} more than once; keep one of them")
    return content


def read_json(path: Path, *, description: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Raises MissingFile or DataError."""
    text = read_text(path, description=description, max_bytes=max_bytes)
    try:
        return json.loads(text, object_pairs_hook=object_of_pairs)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode())
        message = f"{path}: not valid JSON at byte {offset} ({error.msg}); the file may be cut off"
        raise DataError("not valid JSON", message) from error
    except RecursionError as error:
        raise DataError("not valid JSON", f"{path}: JSON nested too deeply") from error
    except ValueError as error:  # a key named twice, or a number with thousands of digits
        raise DataError("not valid JSON", f"{path}: {error}") from error


def read_json_lines(path: Path, *, description: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file, after its location "file, line n"."""
    for number, line in read_lines(path, description=description):
        location, row = f"{path}, line {number}", None
        with faults.catch_errors():
            try:
                row = json.loads(line, object_pairs_hook=object_of_pairs)
            except (ValueError, RecursionError) as error:
                raise DataError("not valid JSON", f"{location}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                message = f'{location}: expected an object such as {{"image": …, "caption": …}}'
                raise DataError("unexpected structure", message)
        if isinstance(row, dict):
            yield location, row


def objects_under_key(value: object, key: str, *, location: object) -> list[dict[str, Any]]:
    """The list of objects under `key` of an object of a JSON file."""
    objects = value.get(key) if isinstance(value, dict) else None
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise DataError("unexpected structure", f"{location}: expected an object with a list of objects under {key!r}")
    return objects


def objects_in_list(value: object, *, location: object) -> list[dict[str, Any]]:
    """The objects of a JSON file that must be a list of them."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError("unexpected structure", f"{location}: expected a list of objects")
    return value


def is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ID


def parse_id(value: object, *, id_name: str, location: object) -> int:
    """An id that is written as 7 or "7"."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if not is_id(value):
        message = f"{location}: {id_name} must be an integer from 0 on, not {str(value)[:80]!r}"
        raise DataError("id is no whole number", message)
    return value


def clean_captions(
    captions: Iterable[object], *, location: str, training: bool, skipped: SkippedRecords | None = None
) -> tuple[str, ...]:
    """Captions with white space reduced to single spaces. Empty and null captions are dropped in training, where `skipped`
    counts them, and an error in evaluation."""
    cleaned = []
    for caption in captions:
        kind = "empty caption"
        if caption is None or (isinstance(caption, float) and math.isnan(caption)):  # NaN is how pandas writes null
            kind, caption = "null caption", ""
        if not isinstance(caption, str):
            message = f"{location}: a caption must be a text, not {type(caption).__name__}"
            raise DataError("caption is no text", message)
        words = " ".join(caption.split())
        if not words.isascii() and any("\ud800" <= letter <= "\udfff" for letter in words):
            message = f"{location}: a caption contains half of a surrogate pair; write the character as UTF-8"
            raise DataError("half a character", message)
        if words:
            cleaned.append(words)
        elif not training:
            raise DataError(kind, f"{location}: {kind} in evaluation data would change the metric; correct the file")
        elif skipped is not None:
            skipped.add(kind, location)
    return tuple(cleaned)
