"""A text file is written completely or not at all."""

from pathlib import Path

import pytest

from vlp.system.atomic import atomic_write_json, atomic_write_text, nearest_folder


def test_an_error_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    atomic_write_text(file, "before")

    def lines():
        yield "half"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        atomic_write_text(file, lines())
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; create it first"):
        atomic_write_json(tmp_path / "none" / "a.json", {})


def test_the_mode_of_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert nearest_folder(tmp_path) == tmp_path
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert nearest_folder(tmp_path / "file") == tmp_path
