from __future__ import annotations

from pathlib import Path

import pytest

from vlp.system.errors import UserError
from vlp.system.json_files import read_json, read_json_object


def test_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"naïve": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"naïve": [1, None]}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: not a JSON file .*; copy or download it again"):
        read_json(tmp_path / "a.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")


def test_an_object_is_due_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json_object(path) == {"a": 1}
    for text in ("[]", "null", "3"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.json: holds a .* instead of an object"):
            read_json_object(path)
