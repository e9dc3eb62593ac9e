"""The shards of each split and their sample counts: `manifest.json` beside the shards.

    {"version": 1,
     "splits": {"train": [{"name": "train-00000.tar", "bytes": 10240, "samples": 2000, "sha256": "…"}, ..], ..},
     "class_names": [..] | null, "answer_names": [..] | null}

`vlp data pack` writes it; `vlp data index` writes one for shards of another origin. Without it, the number of samples is
read from img2dataset's `00000_stats.json` beside the shard, or, for files of this machine, counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vlp.data.annotation_files import is_id
from vlp.data.issues import DataError

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """name: path below the root.  bytes, sha256: of the tar; None = unknown.  samples: None = not counted yet.
    left_out: members of which `vlp data index` could make no sample."""

    name: str
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    splits: Mapping[str, Sequence[Shard]]
    class_names: tuple[str, ...] | None = None
    answer_names: tuple[str, ...] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)  # how many samples of each split are in no shard

    def to_json(self) -> str:
        return json.dumps({"version": MANIFEST_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def parse_shard_manifest(text: str, *, location: str) -> ShardManifest:
    """Raises DataError if the text is no manifest of this version.  location: of the file, for messages."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError("not valid JSON", f"{location}: not valid JSON ({error}); the file may be cut off") from error
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict):
        raise DataError("no manifest", f"{location}: expected an object with splits, as `vlp data pack` writes it")
    if content.get("version") != MANIFEST_VERSION:
        raise DataError(
            "manifest of another version",
            f"{location}: version {content.get('version')!r}, this vlp reads {MANIFEST_VERSION}; write it again with "
            "`vlp data index`",
        )
    splits = {
        split: _parse_shards(entries, location=f"{location}: {split}") for split, entries in content["splits"].items()
    }
    return ShardManifest(
        splits=splits,
        class_names=_parse_names(content.get("class_names")),
        answer_names=_parse_names(content.get("answer_names")),
        left_out=left_out if isinstance(left_out := content.get("left_out"), dict) else {},
    )


def _parse_names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


def _parse_shards(entries: Any, *, location: str) -> list[Shard]:
    shards: dict[str, Shard] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        entry_fields = entry if isinstance(entry, dict) else {}
        name, samples, size, digest = (entry_fields.get(key) for key in ("name", "samples", "bytes", "sha256"))
        left_out = entry_fields.get("left_out", 0)
        sound = (
            is_id(samples)
            and is_id(left_out)
            and (size is None or is_id(size))
            and (digest is None or isinstance(digest, str))
        )
        if not sound or not isinstance(name, str):
            message = f"{location}[{number}]: expected name, samples, bytes and sha256 of a shard"
            raise DataError("no manifest", message)
        check_shard_name(name, location=f"{location}[{number}]")
        if name in shards:
            raise DataError("file listed twice", f"{location}: {name} is listed more than once")
        shards[name] = Shard(name=name, samples=samples, bytes=size, sha256=digest, left_out=left_out)
    return list(shards.values())


def check_shard_name(name: str, *, location: str) -> None:
    """Raises DataError unless the name is a relative path without `..`."""
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or ":" in name:
        raise DataError(
            "path outside the root", f"{location}: {name[:80]!r} is no plain path below the folder of the shards"
        )


def expand_shard_patterns(patterns: str | Iterable[str]) -> list[str]:
    """`a-{000..012}.tar` as thirteen names with equal digits, `{a,b}` as two; several patterns in order."""
    names: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names += _expand_braces(pattern)
    return names


def _expand_braces(pattern: str) -> list[str]:
    if match := _RANGE.search(pattern):
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise DataError("no shard", f"{pattern}: the range {match[0]} is empty; write the smaller number first")
        width = len(match[1]) if match[1].startswith("0") else 0
        choices: Iterable[str] = (f"{number:0{width}d}" for number in range(first, last + 1))
    elif match := _LIST.search(pattern):
        choices = match[1].split(",")
    else:
        return [pattern]
    return [
        name
        for choice in choices
        for name in _expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])
    ]
