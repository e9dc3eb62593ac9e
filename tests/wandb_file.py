"""Reads wandb's log `run-ID.wandb`: a file of 32 KiB blocks in LevelDB's format, each record a protobuf.

Header ":W&B", a magic number and a version; then records, split into pieces at block ends, each piece with its CRC.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
MAGIC = 0xBEE1


@dataclass
class WandbRun:
    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[tuple[str, str, list[str]]] = field(default_factory=list)  # name, type, paths in it
    exit_code: int | None = None


def records(file: Path) -> Iterator[Record]:
    """All records of a file that is complete or that ends early."""
    content = file.read_bytes()
    ident, magic, version = struct.unpack("<4sHB", content[:7])
    assert (ident, magic, version) == (b":W&B", MAGIC, 0)
    offset, pieces = 7, b""
    while offset + 7 <= len(content):
        rest_of_block = BLOCK - offset % BLOCK
        if rest_of_block < 7:
            offset += rest_of_block
            continue
        crc, length, kind = struct.unpack("<IHB", content[offset : offset + 7])
        data = content[offset + 7 : offset + 7 + length]
        if len(data) < length or kind == 0:
            return
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == crc, f"{file} is damaged at byte {offset}"
        offset += 7 + length
        pieces = data if kind in (FULL, FIRST) else pieces + data
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pieces)
            yield record


def read(file: Path) -> WandbRun:
    run = WandbRun()
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.project = record.run.run_id, record.run.display_name, record.run.project
            run.group, run.tags = record.run.run_group, list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
        elif kind == "artifact":
            paths = [entry.path for entry in record.artifact.manifest.contents]
            run.artifacts.append((record.artifact.name, record.artifact.type, paths))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _update(values: dict[str, Any], items: Iterable[Any]) -> None:
    for item in items:
        names = list(item.nested_key) or [item.key]
        parent = values
        for name in names[:-1]:
            parent = parent.setdefault(name, {})
        parent[names[-1]] = json.loads(item.value_json)
