from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.prediction.inputs import read_inputs


def test_lines_with_a_byte_order_mark_and_separators_within_a_text(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "question": "one\u2028two"}, {"image": "b.jpg"}]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8-sig"))
    first, second = read_inputs([path])
    assert (first.images, first.question) == ((tmp_path / "a.jpg",), "one\u2028two")
    assert second.location == f"{path}, line 3"
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no line with an image"):
        read_inputs([path])


def test_a_key_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "a.jpg", "captions": ["x"], "captions": ["y"]}\n')
    with pytest.raises(ValueError, match=r"line 1: .*names the key 'captions' more than once"):
        read_inputs([path])
