from __future__ import annotations

from pathlib import Path

import pytest

from vlp.system.errors import UserError
from vlp.system.json_files import read_json


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
