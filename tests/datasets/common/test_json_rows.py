from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vlp.data.issues import DataError, Faults
from vlp.datasets.common.json_rows import json_rows


def read(path: Path) -> list[dict[str, object]]:
    return [row for _, row in json_rows(path, description="the table", faults=Faults())]


def test_a_list_an_object_of_rows_and_lines_are_read_alike(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x"}, {"image": "b.jpg", "caption": "y"}]
    files = {
        "list.json": json.dumps(rows),
        "by_id.json": json.dumps({"7": rows[0], "8": rows[1]}),
        "data.json": json.dumps({"data": rows, "version": 1}),
        "lines.JSONL": "\n".join(map(json.dumps, rows)),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name) == rows, name
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(files["lines.JSONL"].encode()))
    assert read(tmp_path / "packed.jsonl.gz") == read(tmp_path / "packed.jsonl") == rows


@pytest.mark.parametrize(
    ("name", "text", "location"),
    [
        ("t.jsonl", '{"image": "a.jpg", "caption": "x", "caption": "y"}', "t.jsonl, line 1"),
        ("t.json", '[{"image": "a.jpg", "caption": "x", "caption": "y"}]', "t.json"),
        ("t.json", '{"caption": {"image": "a.jpg"}, "caption": {"image": "b.jpg"}}', "t.json"),
    ],
)
def test_a_key_named_twice_is_an_error_and_not_the_last_value(
    tmp_path: Path, name: str, text: str, location: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{location}.*names the key 'caption' more than once"):
        read(tmp_path / name)
