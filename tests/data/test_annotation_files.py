from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.splits import pictures
from vlp.data.annotation_files import path_below_root, read_json


@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:/a.jpg", "a\0.jpg", "x" * 5000, "", None, 7]
)
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match=r"^list.json: images.0.: "):
        path_below_root(tmp_path, name, location="list.json: images[0]")


def test_links_may_not_leave_the_root_unless_allowed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    pictures(outside, "a.jpg")
    pictures(root, "real/b.jpg")
    os.symlink(outside, root / "folder")
    os.symlink(outside / "a.jpg", root / "a.jpg")
    os.symlink(root / "real" / "b.jpg", root / "b.jpg")
    for name in ("folder/a.jpg", "a.jpg"):
        with pytest.raises(ValueError, match="follow_symlinks=true"):
            path_below_root(root, name, location="x")
        assert path_below_root(root, name, location="x", follow_symlinks=True) == root / name
    assert path_below_root(root, "b.jpg", location="x") == root / "b.jpg"
    os.symlink(root, tmp_path / "alias")
    assert path_below_root(tmp_path / "alias", "real/b.jpg", location="x") == tmp_path / "alias" / "real" / "b.jpg"


def test_json_errors_tell_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, description="it") == {"a": 1}
    for data, message in (
        ('{"é": 1, "b"'.encode(), "not valid JSON at byte 13"),
        (b'{"a": "\xe9"}', "byte 7 is not UTF-8"),
        (b"<html>", "not valid JSON at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_json(path, description="it")
    with pytest.raises(ValueError, match="more than the limit of 9"):
        read_json(path, description="it", max_bytes=9)
    with pytest.raises(FileNotFoundError, match="it is missing"):
        read_json(tmp_path / "b.json", description="it")
