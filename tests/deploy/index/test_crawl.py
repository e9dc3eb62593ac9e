from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlp.deploy.index.crawl import Crawl, check_roots, is_below
from vlp.system.errors import UserError


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def names(crawl: Crawl, root: Path) -> list[str]:
    return [os.path.relpath(file.path, root) for file in crawl]


def test_files_come_once_and_in_a_fixed_order_without_hidden_ones(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.jpg", "a/2.jpg", "a/1.jpg", "c/.x.jpg", ".thumbs/t.jpg", "__MACOSX/m.jpg")))
    assert names(Crawl([str(tmp_path)]), tmp_path) == ["b.jpg", "a/1.jpg", "a/2.jpg"]
    assert len(names(Crawl([str(tmp_path)], hidden=True), tmp_path)) == 6
    assert names(Crawl([str(tmp_path)], excluded=[str(tmp_path / "a")]), tmp_path) == ["b.jpg"]


def test_loops_of_links_end_and_photos_keep_their_plain_paths(tmp_path: Path) -> None:
    touch(tmp_path / "photos/z/1.jpg", tmp_path / "outside/2.jpg")
    (tmp_path / "photos/a-link").symlink_to(tmp_path / "photos/z")
    (tmp_path / "photos/z/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/outside").symlink_to(tmp_path / "outside")
    found = names(Crawl([str(tmp_path / "photos")]), tmp_path / "photos")
    assert found == ["z/1.jpg", "outside/2.jpg"]


def test_roots_that_overlap_are_one(tmp_path: Path) -> None:
    touch(tmp_path / "a/b/1.jpg", tmp_path / "ab/2.jpg")
    roots = check_roots([tmp_path / "a/b", tmp_path / "a", tmp_path / "a/../a", tmp_path / "ab"])
    assert roots == [str(tmp_path / "a"), str(tmp_path / "ab")]
    assert len(list(Crawl(roots))) == 2
    assert not is_below("/x/ab", "/x/a")
    assert is_below("/x", "/")


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "good.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "gone").mkdir()
    crawl = Crawl([str(tmp_path), str(tmp_path / "gone/deeper")])
    assert names(crawl, tmp_path) == ["good.jpg"]
    assert crawl.unreadable == [(str(tmp_path / "gone.jpg"), "a link that leads nowhere")]


def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names")
    crawl = Crawl([str(tmp_path)])
    assert list(crawl) == []
    assert crawl.unreadable == [(f"{tmp_path}/\\xff.jpg", "its name is not UTF-8; rename it")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "closed/1.jpg")
    (tmp_path / "closed").chmod(0)
    crawl = Crawl([str(tmp_path)])
    assert list(crawl) == []
    assert crawl.unreadable == [(str(tmp_path / "closed"), "folder not readable (Permission denied)")]


def test_roots_have_to_be_folders(tmp_path: Path) -> None:
    touch(tmp_path / "1.jpg")
    with pytest.raises(FileNotFoundError, match="is a drive not connected"):
        check_roots([tmp_path / "photos"])
    with pytest.raises(UserError, match="is a file; give the folder"):
        check_roots([tmp_path / "1.jpg"])
