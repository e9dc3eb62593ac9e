"""Real graphs in ONNX Runtime and OpenVINO: their answers, threads, and what is said where one cannot be run."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.data.pictures import picture
from tests.deploy.runtime.onnx_artifact import SIDE, write_onnx_artifact
from vlp.deploy.runtime.engine import open_artifact
from vlp.deploy.runtime.manifest import Graph, read_manifest, write_manifest
from vlp.deploy.runtime.sessions import open_session
from vlp.system.errors import UserError

TEXTS = ["a red dog", "a blue cat", "", "a a a a a a a a"]


def photos() -> list[PIL.Image.Image]:
    return [picture(seed, (40 + seed, 30)) for seed in range(5)]


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "openvino")
    folder = tmp_path_factory.mktemp(request.param)
    write_onnx_artifact(folder, openvino=request.param == "openvino")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "artifact"))


def test_embeddings_are_those_of_the_formula(folder: Path) -> None:
    for threads in (0, -1):
        with pytest.raises(UserError, match=f"^threads={threads}: give at least 1"):
            open_artifact(folder, threads=threads)
    engine = open_artifact(folder, threads=1)
    with pytest.raises(UserError, match=r"^there is no verb 'nonsense'; the verbs are embed_images, "):
        engine.require("nonsense")
    engine.load()
    pixels = engine.load_pixels(photos())
    weight = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    wanted = (pixels.astype(np.float32) - 127.5).mean((2, 3)) @ weight
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = engine.embed_pixels(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    texts = engine.embed_texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(engine.embed_texts([text])[0], texts[row], atol=1e-5)
    assert [list(each) for each in engine.classify(photos())] == [["cat", "dog", "cow"]] * 5
    assert engine.similarity(photos(), TEXTS).shape == (5, 4)


def test_many_threads_get_their_own_answers(folder: Path) -> None:
    engine = open_artifact(folder, threads=1)
    pixels = [np.full((1 + index % 3, 3, SIDE, SIDE), 20 * index, dtype=np.uint8) for index in range(8)]
    pixels = [each + np.arange(3, dtype=np.uint8)[:, None, None] * 30 for each in pixels]
    wanted = [open_artifact(folder).embed_pixels(each) for each in pixels]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(30):
            if not np.allclose(engine.embed_pixels(pixels[index]), wanted[index], atol=1e-6):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_damaged_graph_is_found_before_it_is_loaded(folder: Path) -> None:
    manifest, _ = read_manifest(folder)
    name = next(iter(manifest.graphs["text"].data), manifest.graphs["text"].file)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    engine = open_artifact(folder)
    engine.embed_images(photos())  # its file is sound
    with pytest.raises(
        UserError, match=re.escape(f"{name}: its content is not the exported one: copy the artifact again")
    ):
        engine.embed_texts(TEXTS)
    with pytest.raises(UserError, match="its content is not the exported one"):
        open_artifact(folder).load()
    open_artifact(folder, verify=False).embed_texts(TEXTS)


def test_one_sentence_where_a_graph_cannot_be_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = read_manifest(folder)
    image = manifest.graphs["image"]

    def message(graph: Graph, threads: int | None = 1) -> str:
        with pytest.raises(UserError) as raised:
            open_session(folder, graph, precision="float32", threads=threads)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "threads=0: give at least 1" in message(image, 0)
    other = dataclasses.replace(image, inputs=("pixels", "mask"))
    assert "the manifest alone has an input mask" in message(other)
    assert "alone has an output " in message(dataclasses.replace(image, outputs=("embeds",)))
    (folder / f"broken{Path(image.file).suffix}").write_bytes(b"no graph")
    assert "cannot be loaded (" in message(dataclasses.replace(image, file=f"broken{Path(image.file).suffix}"))
    library = "onnxruntime" if image.backend == "onnx" else "openvino"
    monkeypatch.setitem(sys.modules, library, None)
    extra = "serve" if image.backend == "onnx" else "openvino"
    assert f"needs {library}, which is not installed: pip install 'vlp[{extra}]'" in message(image)


def test_an_artifact_without_a_file_that_a_verb_reads(tmp_path: Path) -> None:
    manifest = write_onnx_artifact(tmp_path)
    (tmp_path / "transform.json").unlink()
    write_manifest(tmp_path, manifest)
    with pytest.raises(UserError, match=r"this artifact reads no pictures: it has no transform\.json"):
        open_artifact(tmp_path).load_pixels(photos())


def test_an_artifact_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        write_onnx_artifact(tmp_path / name)
    first, second = (open_artifact(tmp_path / name).fingerprint for name in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "README.md").write_text("other")
    write_manifest(tmp_path / "b", read_manifest(tmp_path / "a")[0])
    assert open_artifact(tmp_path / "b").fingerprint != first
