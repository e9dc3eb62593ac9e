from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlp.deploy.index.tables import connect, path_range
from vlp.system.errors import UserError


@pytest.mark.parametrize("folder", ["/photos/a", "/photos/a%_", "/photos/it's", "/", "/photos/ä"])
def test_the_range_of_a_folder_holds_what_is_below_it(folder: str) -> None:
    first, end = path_range(folder)
    below = folder.rstrip("/") + "/x.jpg"
    assert first <= below < end
    for other in (folder + "b/x.jpg", folder + ".jpg", folder + "!", "/photo/x.jpg"):
        assert folder == "/" or not first <= other < end


def test_a_reader_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unable to open database file"):
        connect(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_index_that_may_not_be_written_is_read(tmp_path: Path) -> None:
    connect(tmp_path, create=True).close()
    (tmp_path / "photos.sqlite").chmod(0o444)
    tmp_path.chmod(0o555)
    assert connect(tmp_path).execute("select count(*) from photos").fetchone() == (0,)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"not readable .*; delete .* and index the photos again"):
        connect(tmp_path)
