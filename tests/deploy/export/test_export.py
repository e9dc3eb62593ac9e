"""Artifacts of every family, read back by the runtime that serves them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deploy.export import tiny
from tests.deploy.export.artifacts import write_artifact
from vlp.deploy.export.export import ExportOptions, export
from vlp.deploy.export.golden import draw_pictures
from vlp.deploy.export.verb_gate import compare_verbs
from vlp.deploy.runtime.engine import Engine, open_artifact
from vlp.system.errors import UserError

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
GRAPHS = {
    "clip": {"image", "image_places", "text"},
    "classification": {"image", "image_places", "text", "classifier"},
    "probe": {"classifier"},
    "albef": {"image", "image_places", "text", "memory", "pair", "answer_prefill", "answer_step"},
    "vilt": {"memory", "pair", "answer"},
    "blip": {"image", "image_places", "text", "memory", "pair", "prefill", "step"},
    "coca": {"image", "text", "memory", "prefill", "step"},
    "detection": {"image", "image_places", "text", "detect"},
    "detection of texts": {"image", "image_places", "text", "detect"},
    "segmentation": {"image", "image_places", "text", "segment"},
    "segmentation of texts": {"image", "image_places", "text", "segment"},
    "segmentation by a linear map": {"image", "image_places", "text", "segment"},
    "segmentation without training": {"image", "image_places", "text", "segment"},
}
TEXTS = ["a red circle left of a blue square", "two dogs"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "artifact"
    assert write_artifact("clip", folder, only=["image", "text"]) == ""
    return folder


def open_with_one_thread(folder: Path) -> Engine:
    return open_artifact(folder, threads=1)


def test_an_artifact_embeds_as_the_checkpoint_does(clip_folder: Path) -> None:
    engine, predictor = open_with_one_thread(clip_folder), tiny.build("clip")
    pictures = draw_pictures(3)
    np.testing.assert_allclose(engine.embed_images(pictures), predictor.embed_images(pictures), atol=1e-5)
    np.testing.assert_allclose(engine.embed_texts(TEXTS), predictor.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(engine.similarity(pictures, TEXTS), predictor.similarity(pictures, TEXTS), atol=1e-4)


def test_the_folder_says_what_was_measured_and_names_no_path(clip_folder: Path) -> None:
    manifest = json.loads((clip_folder / "manifest.json").read_text())
    assert set(manifest["parity"]["graphs"]) == set(manifest["graphs"]) == {"image", "text"}
    assert manifest["parity"]["graphs"]["image"]["difference"] <= 1e-5
    assert manifest["parity"]["latency_ms"]["text"]["artifact"] > 0
    assert "engine.similarity" in (clip_folder / "README.md").read_text()
    for file in clip_folder.iterdir():
        assert str(Path(__file__).parents[3]).encode() not in file.read_bytes(), file.name


def test_the_parity_file_has_the_checkpoints_own_answers(clip_folder: Path) -> None:
    engine, predictor = open_with_one_thread(clip_folder), tiny.build("clip")
    with np.load(clip_folder / "parity.npz") as file:
        pixels, wanted = file["image/input/pixels"], file["image/output/image_embeds"]
        assert np.array_equal(engine.load_pixels(draw_pictures()), file["pixels"])
        assert np.array_equal(engine.tokenize(list(file["texts"]))[0], file["ids"])
    np.testing.assert_allclose(engine.embed_pixels(pixels), wanted, atol=1e-5)
    assert predictor.model.projection.width == wanted.shape[1]


def test_an_artifact_is_replaced_completely_and_other_folders_are_not(clip_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "photos"
    own.mkdir()
    (own / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="is no artifact"):
        export(tiny.build("clip"), own)
    assert [file.name for file in own.iterdir()] == ["photo.jpg"]
    (tmp_path / "link").symlink_to(clip_folder)
    with pytest.raises(UserError, match="is a link"):
        export(tiny.build("clip"), tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "photos"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_low_precisions_keep_unit_length_and_direction(precision: str, clip_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    assert write_artifact("clip", tmp_path / "a", precision=precision, only=["image", "text"]) == ""
    engine, exact = open_with_one_thread(tmp_path / "a"), open_with_one_thread(clip_folder)
    assert engine.manifest.graphs["image"].backend == "openvino"
    embeds = engine.embed_images(draw_pictures(3))
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-5)
    assert ((embeds * exact.embed_images(draw_pictures(3))).sum(1) > 0.99).all()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("vilt", {}, "several sizes"),
        ("clip", {"square": True}, "--square is for pictures of several sizes"),
        ("clip", {"only": ["imge"]}, "no graph imge"),
        ("clip", {"precision": "int4"}, "choose one of float32"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    family: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export(tiny.build(family), tmp_path / "a", ExportOptions(**options))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_passes_its_gate_and_answers_as_the_checkpoint_does(family: str, tmp_path: Path) -> None:
    assert write_artifact(family, tmp_path / "a", square=family == "vilt") == ""
    engine, predictor = open_with_one_thread(tmp_path / "a"), tiny.build(family)
    assert set(engine.manifest.graphs) == GRAPHS[family]
    pictures, texts = draw_pictures(2), TEXTS
    if "embed_images" in engine.verbs:
        np.testing.assert_allclose(engine.embed_images(pictures), predictor.embed_images(pictures), atol=1e-5)
    if family == "vilt":
        return  # the checkpoint reads pictures of other sizes
    compare_verbs(predictor, engine)  # raises
    if "match" in engine.verbs:
        np.testing.assert_allclose(engine.match(pictures, texts), predictor.match(pictures, texts), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_writing_over_a_loaded_artifact_leaves_it_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = tmp_path / "a"
    assert write_artifact("clip", folder, precision="int8", only=["image"]) == ""
    engine, pictures = open_with_one_thread(folder), draw_pictures(2)
    before = engine.embed_images(pictures)
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert write_artifact("coca", folder, precision="int8", only=["image"]) == ""
    assert np.array_equal(engine.embed_images(pictures), before)
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() != digest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
