from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.index.colour_artifact import write_artifact
from tests.deploy.index.photos import draw_photo, save_photo
from tests.tars import write as write_tar
from vlp.cli import main
from vlp.deploy.index.store import Store
from vlp.system.exit_codes import INTERRUPTED

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLP_INDEX", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, colour in enumerate(("red", "green", "blue")):
        save_photo(tmp_path / f"photos/{colour}.jpg", colour, seed=number, taken="2024:05:01 12:30:00")
    return tmp_path / "photos"


def test_folders_become_an_index_that_is_brought_up_to_date(
    photos: Path, artifact: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cut.jpg").write_bytes((photos / "red.jpg").read_bytes()[:300])
    (photos / "list.txt").write_text("x")
    assert main(["index", str(photos), "--engine", str(artifact)]) == 0
    out, errors = capsys.readouterr()
    assert out == f"3 added, 1 not readable, 1 other files; 3 photos in {store}\n"
    assert errors.startswith(f"{photos}/cut.jpg: ")
    save_photo(tmp_path / "more/4.jpg", "yellow", seed=9)
    assert main(["index", str(tmp_path / "more")]) == 0  # by the artifact that the index names
    (photos / "green.jpg").unlink()
    capsys.readouterr()
    assert main(["index"]) == 0  # both folders
    assert capsys.readouterr().out == f"1 removed, 3 unchanged; 3 photos in {store}\n"
    assert main(["index", "--errors"]) == 0
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{photos}/cut.jpg",
        f"{photos}/list.txt",
    ]
    (photos / "copy.jpg").write_bytes((photos / "red.jpg").read_bytes())
    main(["index"])
    capsys.readouterr()
    assert main(["index", "--copies"]) == 0
    out, errors = capsys.readouterr()
    assert out == f"{photos}/copy.jpg\n{photos}/red.jpg\n\n"
    assert errors == "1 photos are copies of 1 others\n"


def test_another_model_needs_again(
    photos: Path, artifact: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", str(photos), "--engine", str(artifact)])
    other = write_artifact(tmp_path / "other", family="others")
    capsys.readouterr()
    assert main(["index", "--engine", str(other)]) == 2
    assert f"`vlp index --engine NEW --store {store} --again`" in capsys.readouterr().err
    assert main(["search", "red", "--engine", str(other)]) == 2
    assert "was made by another model" in capsys.readouterr().err
    assert main(["index", "--engine", str(other), "--again"]) == 0
    assert main(["search", "red"]) == 0
    assert f"{photos}/red.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index"], "which photos? vlp index FOLDER --engine ARTIFACT"),
        (["index", "nowhere"], "there is no such folder; is a drive not connected?"),
        (["index", "photos"], "there is no index yet; name the model with --engine ARTIFACT"),
        (["index", "photos", "--engine", "nowhere"], "there is no such folder; `vlp export` writes an artifact"),
        (["index", "photos", "--engine", "photos"], "no artifact"),
        (["index", "photos", "--batch-size", "0"], "--batch-size expects a number above 0"),
        (["index", "photos", "--shards", "a.tar"], "are different sources"),
        (["index", "--shards", "a.tar"], "--shards TAR… and --out DIR belong together"),
        (["index", "--part", "1/2"], "--part I/N chooses among --shards"),
        (["index", "--store", "qdrant:x", "photos"], "photos are indexed into a folder"),
        (["index", "--parts", "photos"], "holds no embeddings"),
        (["index", "--copy-to", "lancedb:x"], "there is no index; make it with"),
        (["index", "--errors"], "there is no index; make it with"),
        (["search", "a"], "there is no index; make it with"),
        (["search"], "say what to search for"),
        (["search", "--like", "nothing.jpg"], "there is no such photo"),
        (["search", "--like", "."], ".: is a folder, and no photo"),
        (["search", "a", "--weight", "0.3"], "--weight is between a text and the photo of --like"),
        (["search", "a", "--region", "0,0,1,1"], "--region is the part of the photo of --like"),
        (["search", "a", "--store", "photos"], "photos holds other files and is no index"),
        (["search", "a", "--store", "photos/red.jpg"], "photos/red.jpg is a file, and an index is a folder"),
        (["search", "a", "--region", "1,2"], "expected four numbers from 0 to 1"),
        (["search", "a", "--store", "lancedb:x"], "name the model that made it with --engine"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, photos: Path, tmp_path: Path, store: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not store.exists()


def test_a_folder_of_other_files_is_no_store(photos: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", str(photos), "--engine", str(artifact), "--store", str(photos)]) == 2
    assert "holds other files and is no index" in capsys.readouterr().err
    assert sorted(file.name for file in photos.iterdir()) == ["blue.jpg", "green.jpg", "red.jpg"]


def test_shards_parts_and_other_engines(
    artifact: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    for number, colour in enumerate(("red", "green", "blue")):
        stream = io.BytesIO()
        draw_photo(colour, seed=number).save(stream, "JPEG")
        write_tar(tmp_path / f"{number:05d}.tar", [("0.jpg", stream.getvalue())])
    shards, parts, lance = (
        str(tmp_path / "{00000..00002}.tar"),
        str(tmp_path / "parts"),
        f"lancedb:{tmp_path / 'lance'}",
    )
    for part in ("1/2", "2/2", "2/2"):
        assert main(["index", "--shards", shards, "--part", part, "--out", parts, "--engine", str(artifact)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"2 shards, 2 photos, 0 not readable; {parts}"
    assert main(["index", "--parts", parts]) == 0
    assert main(["index", "--parts", parts, "--copy-to", lance]) == 0
    capsys.readouterr()
    assert main(["search", "green", "--k", "1", "--json"]) == 0  # the parts name the artifact
    local = capsys.readouterr().out
    assert main(["search", "green", "--k", "1", "--store", lance, "--engine", str(artifact)]) == 0
    assert f"{tmp_path}/00001.tar!" in local
    assert f"{tmp_path}/00001.tar!" in capsys.readouterr().out


def test_ctrl_c_is_answered_at_once_and_nothing_is_lost(artifact: Path, store: Path, tmp_path: Path) -> None:
    for number in range(300):
        save_photo(tmp_path / f"photos/{number}.png", "red", seed=number)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_INDEX, str(tmp_path / "photos"), str(artifact)],
        env=environment, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "embedding\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, errors
    assert errors == f"stopped; what was embedded is kept in {store}, and the same command continues\n"
    assert 0 < len(Store(store).rows) < 300
    assert main(["index"]) == 0
    assert Store(store).count == 300


SLOW_INDEX = """
import sys, time
from vlp.cli import main
from vlp.deploy.runtime.engine import Engine
embed, calls = Engine.embed_pixels, []
def slowly(engine, pixels):
    if len(calls) == 1:
        print("embedding", flush=True)
    time.sleep(2 if calls else 0)  # so that a busy machine too delivers the signal before the last of 19 batches
    calls.append(1)
    return embed(engine, pixels)
Engine.embed_pixels = slowly
sys.exit(main(["index", sys.argv[1], "--engine", sys.argv[2], "--batch-size", "16"]))
"""
