from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from vlp.deploy.index.signs import pack_signs
from vlp.deploy.index.store import MANIFEST, Store, StoreManifest
from vlp.deploy.index.writer import StoreWriter, open_writer
from vlp.system.errors import UserError

MANIFEST_OF_TESTS = StoreManifest(fingerprint="a" * 64, width=40)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, 40)) + 0.5
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def add(writer: StoreWriter, rows: np.ndarray, first: int = 0) -> None:
    for number, vector in enumerate(rows, first):
        digest = hashlib.sha256(str(number).encode()).digest()
        row = writer.append(digest, vector, np.array([number, 7], dtype=np.uint64))
        writer.put(f"/photos/{number}.jpg", size=1, changed=1, checked=1, digest=digest, row=row)


def test_rows_signs_and_hashes_are_appended_and_the_mean_follows_their_number(tmp_path: Path) -> None:
    every = vectors(50)
    means = []
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        for start, end in ((0, 5), (5, 9), (9, 10), (10, 19), (19, 50)):
            add(writer, every[start:end], start)
            writer.commit()
            rows = Store(tmp_path / "index").rows
            assert len(rows) == end
            np.testing.assert_array_equal(rows.vectors, every[:end].astype(np.float16))
            np.testing.assert_array_equal(rows.signs, pack_signs(rows.vectors, rows.mean))
            assert rows.hashes.tolist() == [[number, 7] for number in range(end)]
            means.append(rows.mean)
    assert len(list((tmp_path / "index").glob("signs-*"))) == 1
    np.testing.assert_array_equal(means[0], means[1])  # made again at twice the rows
    np.testing.assert_array_equal(means[2], means[3])
    np.testing.assert_allclose(means[4], every.mean(0), atol=1e-3)


def test_what_is_not_committed_is_not_there(tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        add(writer, vectors(3))
        writer.commit()
        add(writer, vectors(2, seed=1), 3)
        assert writer.row_count == 5
        assert Store(tmp_path / "index").count == 3
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        assert (writer.row_count, writer.count) == (3, 3)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        add(writer, vectors(3))
        writer.commit()
    with open(tmp_path / "index/vectors-0.float16", "ab") as stream:
        stream.write(b"x" * 100)
    (tmp_path / "index/signs-77.bits").write_bytes(b"x")
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        add(writer, vectors(1, seed=1), 3)
        writer.commit()
    assert (tmp_path / "index/vectors-0.float16").stat().st_size == 4 * 80
    assert not (tmp_path / "index/signs-77.bits").exists()


@pytest.mark.parametrize("name", ["vectors-0.float16", "signs-3.bits", "hashes-0.uint64"])
def test_a_file_that_is_too_short_is_refused(name: str, tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        add(writer, vectors(3))
        writer.commit()
    file = tmp_path / "index" / name
    file.write_bytes(file.read_bytes()[:-1])
    for open_it in (lambda: Store(tmp_path / "index").rows, lambda: StoreWriter(tmp_path / "index", 40)):
        with pytest.raises(UserError, match=f"{name}: .* bytes where .* belong"):
            open_it()


def test_a_damaged_manifest_or_one_of_another_version(tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS):
        pass
    content = json.loads((tmp_path / "index" / MANIFEST).read_text())
    (tmp_path / "index" / MANIFEST).write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(UserError, match="format 2, this vlp reads 1"):
        Store(tmp_path / "index")
    (tmp_path / "index" / MANIFEST).write_text(json.dumps({"format": 1, "width": 3}))
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path / "index")
    with pytest.raises(FileNotFoundError, match="there is no index; make it with `vlp index PHOTOS"):
        Store(tmp_path / "none")


def test_an_embedding_of_another_width_is_refused(tmp_path: Path) -> None:
    with (
        open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer,
        pytest.raises(UserError, match="an embedding of 3 numbers, the index has 40"),
    ):
        writer.append(b"1", np.zeros(3, np.float32), np.zeros(2, np.uint64))


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        add(writer, vectors(2))
        (_, last) = (id for id, _ in writer.paths_below("/photos"))
        writer.remove([last])
        add(writer, vectors(1, seed=1), 5)
        writer.commit()
        assert last not in {id for id, _ in writer.paths_below("/photos")}


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "index", MANIFEST_OF_TESTS) as writer:
        writer.commit()
    store = Store(tmp_path / "index")
    assert (store.count, len(store.rows), store.errors()) == (0, 0, [])
