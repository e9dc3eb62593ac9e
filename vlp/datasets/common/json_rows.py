"""The rows of a JSON or JSONL file, each an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import objects_in_list, path_or_gzip, read_json, read_json_lines
from vlp.data.issues import Faults

Row = dict[str, Any]


def json_rows(path: Path, *, description: str, faults: Faults) -> Iterator[tuple[str, Row]]:
    """Each row of a JSON list, of an object {id: row} or {"data" or "annotations": [row, ..]}, or of JSONL, after its
    location; .gz may be added.  Raises DataError."""
    path = path_or_gzip(path)
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        yield from read_json_lines(path, description=description, faults=faults)
        return
    content = read_json(path, description=description)
    if isinstance(content, dict):
        inner = next((content[key] for key in ("data", "annotations") if isinstance(content.get(key), list)), None)
        content = list(content.values()) if inner is None else inner
    for number, row in enumerate(objects_in_list(content, location=path)):
        yield f"{path}: [{number}]", row
