"""Which shards a split has, and how many samples each: `manifest.json` beside the shards.

    {"version": 1,
     "splits": {"train": [{"name": "train-00000.tar", "bytes": 10240, "samples": 2000, "sha256": "…"}, ..], ..},
     "class_names": [..] | null, "answer_names": [..] | null}

`vlp data pack` writes it; `vlp data index` writes one for shards of another origin. Without it, a shard's number of
samples is what img2dataset's `00000_stats.json` beside it tells, or, for files of this machine, counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vlp.data.annotation_files import is_id
from vlp.data.issues import DataError

NAME = "manifest.json"
VERSION = 1
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """name: below the root, forward slashes.  bytes, sha256: of the tar; None = unknown.  samples: None = not counted yet."""

    name: str
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    splits: Mapping[str, Sequence[Shard]]
    class_names: tuple[str, ...] | None = None
    answer_names: tuple[str, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)  # how many samples of each split could not be packed

    def text(self) -> str:
        content = {
            "version": VERSION,
            "splits": {split: [asdict(shard) for shard in shards] for split, shards in self.splits.items()},
            "class_names": self.class_names,
            "answer_names": self.answer_names,
            "left_out": dict(self.left_out),
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def parse_manifest(text: str, *, place: str) -> Manifest:
    """Raises DataError for anything that is not such a file."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError("not valid JSON", f"{place}: not valid JSON ({error}); the file may be cut off") from error
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict):
        raise DataError("no manifest", f"{place}: expected an object with splits, as `vlp data pack` writes it")
    if content.get("version") != VERSION:
        raise DataError(
            "manifest of another version",
            f"{place}: version {content.get('version')!r}, this vlp reads {VERSION}; make it again with `vlp data index`",
        )
    splits = {split: _shards(listed, place=f"{place}: {split}") for split, listed in content["splits"].items()}
    return Manifest(
        splits=splits,
        class_names=_names(content.get("class_names")),
        answer_names=_names(content.get("answer_names")),
        left_out=left_out if isinstance(left_out := content.get("left_out"), dict) else {},
    )


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


def _shards(listed: Any, *, place: str) -> list[Shard]:
    shards: dict[str, Shard] = {}
    for number, entry in enumerate(listed if isinstance(listed, list) else [None]):
        told = entry if isinstance(entry, dict) else {}
        name, samples, size, digest = (told.get(key) for key in ("name", "samples", "bytes", "sha256"))
        sound = is_id(samples) and (size is None or is_id(size)) and (digest is None or isinstance(digest, str))
        if not sound or not isinstance(name, str):
            message = f"{place}[{number}]: expected name, samples, bytes and sha256 of a shard"
            raise DataError("no manifest", message)
        check_name(name, place=f"{place}[{number}]")
        if name in shards:
            raise DataError("file listed twice", f"{place}: {name} is listed more than once")
        shards[name] = Shard(name=name, samples=samples, bytes=size, sha256=digest)
    return list(shards.values())


def check_name(name: str, *, place: str) -> None:
    """A shard lies below the root: neither an absolute path nor one with `..`."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or ":" in name:
        raise DataError(
            "path outside the root", f"{place}: {name[:80]!r} is no plain path below the folder of the shards"
        )


def expand(patterns: str | Iterable[str]) -> list[str]:
    """`a-{000..012}.tar` as thirteen names, digits kept; `{a,b}` as two; of several patterns one after the other."""
    names: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names += _expand(pattern)
    return names


def _expand(pattern: str) -> list[str]:
    if found := _RANGE.search(pattern):
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise DataError("no shard", f"{pattern}: the range {found[0]} is empty; write the smaller number first")
        width = len(found[1]) if found[1].startswith("0") else 0
        choices: Iterable[str] = (f"{number:0{width}d}" for number in range(first, last + 1))
    elif found := _LIST.search(pattern):
        choices = found[1].split(",")
    else:
        return [pattern]
    return [name for choice in choices for name in _expand(pattern[: found.start()] + choice + pattern[found.end() :])]
