from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.index.conftest import build_index, manifest_of
from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import draw_photo, save_photo
from vlp.deploy.index import build
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.index.store import Store
from vlp.deploy.index.writer import open_writer
from vlp.system.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
# indexes argv[1] into argv[2] with an engine that takes a while, committing after each batch of four
PROGRAM = """
import sys
from pathlib import Path
from tests.deploy.index.conftest import build_index
from tests.deploy.index.fake_engine import FakeEngine
build_index(Path(sys.argv[2]), FakeEngine(seconds=0.15), [Path(sys.argv[1])], batch_size=4, commit_every=0.0)
"""


def save_photos(folder: Path, count: int) -> list[Path]:
    colours = ("red", "green", "blue", "yellow")
    return [save_photo(folder / f"{i:03d}.jpg", colours[i % 4], seed=i) for i in range(count)]


def age(*files: Path) -> None:
    """So that nothing can have been written between reading and looking at the clock."""
    for file in files:
        os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 10**11))


def paths(store: Path, engine: FakeEngine) -> set[str]:
    return {Path(path).name for (path,) in Store(store).query("select path from photos where row is not null")}


def test_only_what_is_new_or_changed_is_read(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, store = save_photos(tmp_path / "photos", 6), tmp_path / "store"
    age(*photos)
    assert build_index(store, engine, [tmp_path / "photos"]).added == 6
    opened: list[str] = []
    read_file = build.read_file
    monkeypatch.setattr(
        build, "read_file", lambda writer, engine, file: opened.append(file.path) or read_file(writer, engine, file)
    )
    assert build_index(store, engine, [tmp_path / "photos"]).unchanged == 6
    assert opened == []
    save_photo(photos[0], "green", seed=50)
    photos[1].touch()  # another time, the same content
    report = build_index(store, engine, [tmp_path / "photos"])
    assert (report.changed, report.unchanged, report.added) == (1, 5, 0)
    assert opened == [str(photos[0]), str(photos[1])]
    assert engine.embedded == 7
    best = open_index(store, engine).search("green", k=3)
    assert {hit.path for hit in best} == {str(photos[number]) for number in (0, 1, 5)}


def test_a_file_that_is_rewritten_at_once_with_the_same_size_is_read_again(tmp_path: Path, engine: FakeEngine) -> None:
    """Its modification time may be the same: file systems count in steps of up to 2 s."""
    file, store = tmp_path / "photos/1.bmp", tmp_path / "store"
    save_photo(file, "red")
    build_index(store, engine, [tmp_path / "photos"])
    changed = file.stat().st_mtime_ns
    draw_photo("blue").save(file)
    os.utime(file, ns=(changed, changed))
    assert build_index(store, engine, [tmp_path / "photos"]).changed == 1


def test_moved_copied_and_deleted_photos_need_no_model(tmp_path: Path, engine: FakeEngine) -> None:
    photos, store = save_photos(tmp_path / "photos", 5), tmp_path / "store"
    build_index(store, engine, [tmp_path / "photos"])
    ids = {hit.path: hit.id for hit in open_index(store, engine).search("red", k=10)}
    moved = tmp_path / "photos/2024/moved.jpg"
    moved.parent.mkdir()
    photos[0].rename(moved)
    shutil.copy(photos[1], tmp_path / "photos/copy.jpg")
    photos[2].unlink()
    report = build_index(store, engine, [tmp_path / "photos"])
    assert (report.moved, report.copies, report.removed, report.added, report.changed) == (1, 1, 1, 0, 0)
    assert engine.embedded == 5
    index = open_index(store, engine)
    found = {hit.path: hit for hit in index.search("red", k=10)}
    assert found[str(moved)].id == ids[str(photos[0])]
    assert str(photos[2]) not in found
    assert found[str(photos[1])].copies == () or found[str(photos[1])].copies == (str(tmp_path / "photos/copy.jpg"),)
    assert index.count == 5
    shutil.copy(photos[3], photos[2])  # another photo where the deleted one was
    report = build_index(store, engine, [tmp_path / "photos"])
    assert (report.copies, engine.embedded) == (1, 5)


def test_two_files_that_change_places(tmp_path: Path, engine: FakeEngine) -> None:
    (first, second), store = save_photos(tmp_path / "photos", 2), tmp_path / "store"
    build_index(store, engine, [tmp_path / "photos"])
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    build_index(store, engine, [tmp_path / "photos"])
    assert engine.embedded == 2
    assert open_index(store, engine).search("red", k=1)[0].path == str(second)


def test_what_is_no_photo_is_listed_once_and_tried_when_it_changes(tmp_path: Path, engine: FakeEngine) -> None:
    folder, store = tmp_path / "photos", tmp_path / "store"
    good = save_photo(folder / "good.png", "red")
    good.rename(folder / "good.dat")  # judged by its content
    (folder / "notes.txt").write_text("a")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (folder / "camera.nef").write_bytes(b"MM\0*" + bytes(40))
    whole = save_photo(folder / "cut.jpg", "blue").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    age(*folder.iterdir())
    report = build_index(store, engine, [folder])
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert {*reasons} == {"notes.txt", "empty.jpg", "text.jpg", "phone.heic", "camera.nef", "cut.jpg"}
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.jpg"].startswith("no image in spite of its name")
    assert "convert it to JPEG" in reasons["phone.heic"]
    assert "export it as JPEG" in reasons["camera.nef"]
    assert str(report) == "1 added, 5 not readable, 1 other files"
    again = build_index(store, engine, [folder])
    assert again.failed == []
    assert [Path(path).name for path, _ in Store(store).errors()] == sorted(reasons)
    (folder / "cut.jpg").write_bytes(whole)
    assert build_index(store, engine, [folder]).added == 1
    assert paths(store, engine) == {"good.dat", "cut.jpg"}


def test_photos_of_an_empty_or_unreadable_folder_are_kept(tmp_path: Path, engine: FakeEngine) -> None:
    save_photos(tmp_path / "drive", 3)
    save_photos(tmp_path / "home", 2)
    roots, store = [tmp_path / "drive", tmp_path / "home"], tmp_path / "store"
    build_index(store, engine, roots)
    shutil.rmtree(tmp_path / "drive")
    (tmp_path / "drive").mkdir()  # where the drive was mounted
    report = build_index(store, engine, roots)
    assert (report.kept, report.removed) == (3, 0)
    assert Store(store).count == 5
    report = build_index(store, engine, roots, forget=True)
    assert (report.kept, report.removed, Store(store).count) == (0, 3, 2)


def test_an_engine_that_fails_is_no_damaged_photo(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photos(tmp_path / "photos", build.FIRST_FAILURES + 3)
    monkeypatch.setattr(engine, "load_pixels", lambda pictures: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        build_index(tmp_path / "store", engine, [tmp_path / "photos"])


def test_embeddings_that_are_not_finite_are_refused(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photos(tmp_path / "photos", 3)
    monkeypatch.setattr(engine, "embed_pixels", lambda pixels: np.full((len(pixels), 32), np.nan, np.float32))
    with pytest.raises(UserError, match=r"000.jpg: .*not finite"):
        build_index(tmp_path / "store", engine, [tmp_path / "photos"])


def test_ctrl_c_keeps_what_was_embedded(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photos(tmp_path / "photos", 12)
    embed, calls = engine.embed_pixels, [0]

    def interrupted(pixels: np.ndarray) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return embed(pixels)

    monkeypatch.setattr(engine, "embed_pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "store", engine, [tmp_path / "photos"], batch_size=4)
    monkeypatch.undo()
    report = build_index(tmp_path / "store", engine, [tmp_path / "photos"], batch_size=4)
    assert (report.added, report.unchanged, engine.embedded) == (4, 8, 12)


def test_killed_while_indexing_and_continued(tmp_path: Path, engine: FakeEngine) -> None:
    """Nothing that was committed is lost, and nothing is there twice, however often it is killed."""
    photos, store = save_photos(tmp_path / "photos", 40), tmp_path / "store"
    age(*photos)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    committed = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "photos"), str(store)], env=environment, cwd=ROOT
        )
        wait_for_rows(store, committed + 5, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = Store(store).rows
        assert len(rows) >= committed + 5
        committed = len(rows)
    # what a kill between writing the files and counting them leaves
    with open(next(store.glob("vectors-*.float16")), "ab") as stream:
        stream.write(b"left over")
    report = build_index(store, engine, [tmp_path / "photos"])
    assert report.unchanged >= committed
    assert report.added + report.unchanged == 40
    assert engine.embedded == 40 - committed
    assert len(Store(store).rows) == 40
    index = open_index(store, FakeEngine())
    assert {hit.path for hit in index.search("red", k=40, fold=False)} == set(map(str, photos))
    for number in (0, 17, 39):  # each photo has its own embedding
        assert index.search(photo=photos[number], k=1)[0].path == str(photos[number])


def wait_for_rows(store: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was killed: make it slower"
        if (store / "photos.sqlite").exists() and (store / "manifest.json").exists():
            try:
                if len(Store(store).rows) >= count:
                    return
            except Exception:  # its tables are not there yet
                pass
        time.sleep(0.02)
    raise AssertionError("no commit in time")


def test_one_writer_at_a_time_and_readers_at_any(tmp_path: Path, engine: FakeEngine) -> None:
    save_photos(tmp_path / "photos", 4)
    store = tmp_path / "store"
    build_index(store, engine, [tmp_path / "photos"])
    with open_writer(store, manifest_of(engine)) as writer:
        writer.remove([1])  # a transaction is open
        assert open_index(store, engine).count == 4
        with pytest.raises(UserError, match="is being written by another `vlp index`"):
            build_index(store, engine, [tmp_path / "photos"])


def test_another_engine_is_refused_until_asked_for(tmp_path: Path, engine: FakeEngine) -> None:
    save_photos(tmp_path / "photos", 4)
    store, other = tmp_path / "store", FakeEngine(fingerprint="0" * 64, width=40)
    build_index(store, engine, [tmp_path / "photos"])
    with pytest.raises(UserError, match=r"`vlp index --engine NEW --store .* --again`"):
        build_index(store, other, [tmp_path / "photos"])
    with pytest.raises(UserError, match="was made by another model"):
        open_index(store, other)
    assert open_index(store, engine).count == 4
    assert build_index(store, other, [tmp_path / "photos"], again=True).added == 4
    assert open_index(store, other).count == 4
    assert Store(store).roots() == [str(tmp_path / "photos")]
