from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.index.conftest import manifest_of
from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import draw_photo
from tests.tars import write as write_tar
from vlp.deploy.index.parts import WrittenShard, choose_part, embed_shard, prepare_parts, read_parts, take_parts
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.index.writer import open_writer
from vlp.system.errors import UserError


def encoded(colour: str, seed: int) -> bytes:
    stream = io.BytesIO()
    draw_photo(colour, seed).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Two tars: three photos and a damaged one among other files; two photos, one of them a copy."""
    first = [
        ("0.jpg", encoded("red", 0)),
        ("0.txt", b"a caption"),
        ("1.jpg", encoded("blue", 1)),
        ("2.png", b"damaged"),
    ]
    second = [("a/0.jpg", encoded("green", 2)), ("a/.hidden.jpg", encoded("green", 3)), ("a/1.jpg", encoded("red", 0))]
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars/00000.tar", [*first, ("3.jpg", encoded("yellow", 4))])
    write_tar(tmp_path / "tars/00001.tar", second)
    return [str(tmp_path / "tars/00000.tar"), str(tmp_path / "tars/00001.tar")]


@pytest.mark.parametrize("parquet", [True, False])
def test_shards_become_parts_that_become_an_index(
    parquet: bool, shards: list[str], tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parquet:
        pytest.importorskip("pyarrow")
    else:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    parts = tmp_path / "parts"
    prepare_parts(parts, engine)
    assert [embed_shard(shard, engine, parts, batch_size=2) for shard in shards] == [
        WrittenShard(3, 1),
        WrittenShard(2, 0),
    ]
    kind = "parquet" if parquet else "jsonl"
    assert {file.name for file in parts.iterdir()} == {
        "manifest.json",
        "00000.npy",
        f"00000.{kind}",
        "00001.npy",
        f"00001.{kind}",
    }
    assert np.load(parts / "00000.npy").dtype == np.float16
    embedded = engine.embedded
    assert embed_shard(shards[0], engine, parts) == WrittenShard(3, 1)
    assert engine.embedded == embedded  # it was done
    assert sum(map(len, read_parts(parts))) == 5
    with open_writer(tmp_path / "store", manifest_of(engine)) as writer:
        assert take_parts(writer, parts) == 5
        assert take_parts(writer, parts) == 5  # nothing twice
        assert writer.row_count == 4
    index = open_index(tmp_path / "store", engine)
    hits = index.search("red", k=4)
    assert (index.count, len(hits)) == (5, 4)
    assert hits[0].path.startswith(f"{shards[0]}!")
    assert [path.startswith(f"{shards[1]}!") for path in hits[0].copies] == [True]
    assert index.thumbnail(hits[0].id, 32)[:2] == b"\xff\xd8"


def test_every_nth_shard_is_of_a_part(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s3://bucket/{number:05d}.tar" for number in range(7)]
    assert choose_part(["s3://bucket/{00000..00006}.tar"], "2/3") == [names[1], names[4]]
    chosen = [choose_part(["s3://bucket/{00000..00006}.tar"], f"{part}/3") for part in (1, 2, 3)]
    assert sorted(name for names_of_part in chosen for name in names_of_part) == names
    assert choose_part([str(tmp_path / "tars/*.tar")], None) == shards
    monkeypatch.chdir(tmp_path)
    assert choose_part(["tars/{00000..00001}.tar", "tars/*.tar"], None) == shards


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3"])
def test_a_part_that_is_none(part: str) -> None:
    with pytest.raises(UserError, match="expected I/N with I from 1 to N"):
        choose_part(["s3://bucket/{0..6}.tar"], part)


def test_shards_of_one_name_or_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would write the same files"):
        choose_part(["s3://a/0.tar", "s3://b/0.tar"], None)
    with pytest.raises(FileNotFoundError, match="there is no such shard"):
        choose_part([str(tmp_path / "*.tar")], None)


def test_a_shard_that_is_cut_off_writes_nothing(shards: list[str], tmp_path: Path, engine: FakeEngine) -> None:
    prepare_parts(tmp_path / "parts", engine)
    file = Path(shards[0])
    file.write_bytes(file.read_bytes()[:6_000])
    with pytest.raises(UserError, match=r"00000.tar: no tar, or cut off"):
        embed_shard(shards[0], engine, tmp_path / "parts")
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["manifest.json"]


def test_parts_of_another_engine_or_of_two_tries_are_refused(
    shards: list[str], tmp_path: Path, engine: FakeEngine
) -> None:
    parts = tmp_path / "parts"
    prepare_parts(parts, engine)
    with pytest.raises(UserError, match="was made by another model"):
        prepare_parts(parts, FakeEngine(fingerprint="0" * 64))
    embed_shard(shards[1], engine, parts)
    np.save(parts / "00001.npy", np.zeros((1, 32), np.float16))
    with pytest.raises(UserError, match="2 photos and 1 embeddings; delete both files"):
        list(read_parts(parts))


def test_shards_of_an_address(shards: list[str], tmp_path: Path, engine: FakeEngine) -> None:
    pytest.importorskip("fsspec")
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/00000.tar", Path(shards[0]).read_bytes())
    prepare_parts(tmp_path / "parts", engine)
    assert embed_shard("memory://bucket/00000.tar", engine, tmp_path / "parts") == WrittenShard(3, 1)
    rows = next(read_parts(tmp_path / "parts"))
    assert rows.paths[0].startswith("memory://bucket/00000.tar!")
    assert json.loads((tmp_path / "parts/manifest.json").read_text())["fingerprint"] == engine.fingerprint
