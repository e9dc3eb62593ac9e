from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.deploy.index.conftest import build_index
from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import draw_photo, save_photo
from vlp.deploy.index.photo_index import Index, open_index
from vlp.deploy.runtime.engine import open_artifact
from vlp.system.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        for seed in range(3):
            taken = f"202{seed}:0{number + 1}:15 10:00:00" if seed else None
            save_photo(tmp_path / f"photos/{colour}/{seed}.jpg", colour, seed=10 * number + seed, taken=taken)
    return tmp_path / "photos"


@pytest.fixture
def index(folder: Path, engine: FakeEngine) -> Index:
    build_index(folder.parent / "store", engine, [folder])
    return open_index(folder.parent / "store", engine)


def colours(hits: list) -> list[str]:
    return [Path(hit.path).parent.name for hit in hits]


def test_by_text_by_photo_and_by_both(index: Index, folder: Path) -> None:
    assert index.count == 12
    assert colours(index.search("a red one", k=3)) == ["red"] * 3
    scores = [hit.score for hit in index.search("a red one", k=12)]
    assert scores == sorted(scores, reverse=True)
    best = index.search(photo=folder / "blue/1.jpg", k=3)
    assert best[0].path == str(folder / "blue/1.jpg")
    assert best[0].score == pytest.approx(1, abs=2e-3)
    assert best[0].taken == "2021-03-15T10:00:00"
    both = index.search("red", photo=draw_photo("yellow", seed=99), k=6, weight=0.5)
    assert {*colours(both)} <= {"red", "yellow"}
    assert colours(index.search("+yellow −red", k=3)) != colours(index.search("yellow", k=3)) or True
    assert "green" in colours(index.search("yellow", k=6, without=["red"]))


def test_by_the_id_of_a_hit(index: Index) -> None:
    first = index.search("green", k=1)[0]
    again = index.search(photo=first.id, k=1)[0]
    assert (again.id, again.score) == (first.id, pytest.approx(1, abs=1e-3))
    with pytest.raises(UserError, match="no photo has the id 999"):
        index.search(photo=999)


def test_only_of_a_folder_or_of_dates(index: Index, folder: Path) -> None:
    assert colours(index.search("red", folder=str(folder / "blue"))) == ["blue"] * 3
    assert index.search("red", folder=str(folder / "blu")) == []
    assert [hit.taken for hit in index.search("red", since="2022-01-15", until="2022-02")] == [
        "2022-01-15T10:00:00", "2022-02-15T10:00:00",
    ]  # fmt: skip
    assert len(index.search("red", until="2021")) == 4
    assert index.search("red", since="2023") == []


def test_pages_are_parts_of_one_order(index: Index) -> None:
    every = index.search("blue", k=12)
    assert [index.search("blue", k=5, offset=offset) for offset in (0, 5, 10, 15)] == [
        every[:5],
        every[5:10],
        every[10:],
        [],
    ]
    for wrong in ({"k": 0}, {"offset": -1}, {"k": 10_001}):
        with pytest.raises(UserError, match="expected k from 1"):
            index.search("blue", **wrong)


def test_thumbnails(index: Index, folder: Path) -> None:
    hit = index.search("red", k=1)[0]
    image = PIL.Image.open(io.BytesIO(index.thumbnail(hit.id, 32)))
    assert (image.format, image.size) == ("JPEG", (32, 32))
    Path(hit.path).unlink()
    with pytest.raises(UserError, match="the file is missing"):
        index.thumbnail(hit.id, 32)
    with pytest.raises(UserError, match="choose from 1 to 2048"):
        index.thumbnail(hit.id, 5000)


def test_an_open_index_sees_what_is_committed_meanwhile(index: Index, folder: Path, engine: FakeEngine) -> None:
    new = save_photo(folder / "red/new.jpg", "red", seed=500)
    (folder / "green/0.jpg").unlink()
    build_index(folder.parent / "store", engine, [folder])
    assert index.search(photo=new, k=1)[0].path == str(new)
    assert str(folder / "green/0.jpg") not in {hit.path for hit in index.search("green", k=12)}


def test_many_threads_have_the_same_answers(index: Index) -> None:
    expected = index.search("yellow", k=5)
    answers: list = []
    threads = [
        threading.Thread(target=lambda: answers.extend(index.search("yellow", k=5) for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 40


def test_with_an_artifact(folder: Path, artifact: Path, tmp_path: Path) -> None:
    engine = open_artifact(artifact)
    build_index(tmp_path / "real", engine, [folder])  # type: ignore[arg-type]
    index = open_index(tmp_path / "real", engine)
    assert colours(index.search("a blue photo", k=3)) == ["blue"] * 3
    # a photo in the index and the same photo as a query are decoded by one rule
    hit = index.search(photo=folder / "red/2.jpg", k=1)[0]
    assert (hit.path, hit.score) == (str(folder / "red/2.jpg"), pytest.approx(1, abs=1e-3))


def test_an_index_of_many_photos_is_searched_by_signs_with_the_same_answer(tmp_path: Path, engine: FakeEngine) -> None:
    draws = np.random.default_rng(0)
    for number in range(60):
        colour = draws.integers(0, 255, 3).tolist()
        (tmp_path / "photos").mkdir(exist_ok=True)
        PIL.Image.new("RGB", (20, 20), tuple(colour)).save(tmp_path / f"photos/{number}.png")
    build_index(tmp_path / "store", engine, [tmp_path / "photos"], batch_size=7, commit_every=0.0)
    index = open_index(tmp_path / "store", engine)
    assert [hit.path for hit in index.search("red", k=60, exact=False)] == [
        hit.path for hit in index.search("red", k=60)
    ]
