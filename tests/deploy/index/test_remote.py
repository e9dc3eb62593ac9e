"""Qdrant and LanceDB in their embedded modes: the same answers as the index that was copied to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.index.conftest import build_index, manifest_of
from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import save_photo
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.index.photo_rows import store_batches
from vlp.deploy.index.remote import connect_remote, copy_rows, is_remote, open_remote_index
from vlp.deploy.index.store import Store
from vlp.system.errors import UserError

PACKAGES = {"qdrant": "qdrant_client", "lancedb": "lancedb"}


@pytest.fixture(params=PACKAGES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    pytest.importorskip(PACKAGES[request.param])
    return f"{request.param}:{tmp_path / request.param}"


@pytest.fixture
def photos(tmp_path: Path, engine: FakeEngine) -> Path:
    """Of four colours, the yellow ones without date, in folders of which one has a quote in its name."""
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        for seed in range(3):
            taken = None if colour == "yellow" else f"202{seed}:0{number + 1}:15 10:00:00"
            folder = "it's" if colour == "blue" else colour
            save_photo(tmp_path / f"photos/{folder}/{seed}.jpg", colour, seed=10 * number + seed, taken=taken)
    first = tmp_path / "photos/red/0.jpg"
    (tmp_path / "photos/red/copy.jpg").write_bytes(first.read_bytes())
    build_index(tmp_path / "store", engine, [tmp_path / "photos"])
    return tmp_path / "photos"


def copy(address: str, store: Path, engine: FakeEngine) -> int:
    collection = connect_remote(address, manifest_of(engine), create=True, replace=True)
    return copy_rows(collection, store_batches(Store(store)))


def test_the_same_answers_as_the_index(address: str, photos: Path, engine: FakeEngine, tmp_path: Path) -> None:
    assert copy(address, tmp_path / "store", engine) == 13
    local, remote = open_index(tmp_path / "store", engine), open_remote_index(address, engine)
    assert remote.count == local.count == 13
    for options in (
        {"text": "red", "k": 13},
        {"text": "+yellow -red", "k": 5, "offset": 3},
        {"photo": photos / "green/1.jpg", "k": 4},
        {"text": "blue", "folder": str(photos / "it's")},
        {"text": "blue", "since": "2021", "until": "2022-01-15"},
        {"text": "red", "k": 13, "fold": False, "exact": True},
    ):
        expected, found = local.search(**options), remote.search(**options)
        assert [hit.path for hit in found] == [hit.path for hit in expected]
        assert [(hit.id, hit.taken, hit.copies) for hit in found] == [
            (hit.id, hit.taken, hit.copies) for hit in expected
        ]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-3)
    assert remote.thumbnail(found[0].id, 32)[:2] == b"\xff\xd8"
    with pytest.raises(UserError, match="no photo has the id 99999"):
        remote.thumbnail(99_999)
    remote.close()


def test_copied_again_it_is_what_the_index_is_now(
    address: str, photos: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    copy(address, tmp_path / "store", engine)
    (photos / "green/1.jpg").unlink()
    build_index(tmp_path / "store", engine, [photos])
    assert copy(address, tmp_path / "store", engine) == 12
    index = open_remote_index(address, engine)
    assert index.count == 12
    assert str(photos / "green/1.jpg") not in {hit.path for hit in index.search("green", k=20)}
    index.close()


def test_photos_that_are_added_twice_are_there_once(
    address: str, photos: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    for _ in range(2):
        collection = connect_remote(address, manifest_of(engine), create=True)
        copy_rows(collection, store_batches(Store(tmp_path / "store")))
    index = open_remote_index(address, engine)
    assert index.count == 13
    index.close()


def test_another_engine_finds_none_of_its_photos(
    address: str, photos: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds no photos; copy an index there"):
        open_remote_index(address, engine)
    copy(address, tmp_path / "store", engine)
    with pytest.raises(UserError, match="holds photos of another model"):
        open_remote_index(address, FakeEngine(fingerprint="0" * 64))


def test_addresses() -> None:
    assert is_remote("qdrant:http://localhost:6333")
    assert not is_remote("/data/qdrant")
    assert not is_remote("C:/index")
    with pytest.raises(UserError, match="expected qdrant:URL, qdrant:DIR or lancedb:DIR"):
        connect_remote("qdrant:", manifest_of(FakeEngine()))
