from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlp.deploy.runtime.manifest import (
    FORMAT,
    AnswersSection,
    CaptioningSection,
    ClassifierSection,
    DetectionSection,
    Graph,
    Manifest,
    PlacesSection,
    SegmentationSection,
    read_manifest,
    verify_files,
    write_manifest,
)
from vlp.system.errors import UserError, is_user_error
from vlp.tokenizers.rules import TextRules

GRAPH = Graph(file="image.onnx", backend="onnx", inputs=("pixels",), outputs=("image_embeds",))
MANIFEST = Manifest(
    family="clip",
    version="0.1.0",
    checkpoint="c" * 64,
    precision="float32",
    width=4,
    image_size=(8, 16),
    verbs=("embed_images",),
    graphs={"image": GRAPH},
    logit_scale=14.3,
    tokenizer=TextRules(context_length=9, start_id=1, end_id=2, pad_id=0, cleaning="albef"),
    classifier=ClassifierSection(task="probe", names=("a cat", "ein Hündchen")),
    answers=AnswersSection(kind="rank", names=("yes", "no")),
    captioning=CaptioningSection(beams=1),
    places=PlacesSection(grid=(2, 3)),
    detection=DetectionSection(names="texts", class_names=("dog",), nms=0.5),
    segmentation=SegmentationSection(names="classes", class_names=("sky",), window=(8, 8), palette=((1, 2, 3),)),
    parity={"image": {"largest": 1e-7}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "image.onnx").write_bytes(b"graph")
    (tmp_path / "README.md").write_text("for people")
    return tmp_path


def test_read_gives_what_was_written(folder: Path) -> None:
    written = write_manifest(folder, MANIFEST)
    assert set(written.files) == {"image.onnx", "README.md"}
    read, fingerprint = read_manifest(folder)
    assert read == written
    assert dataclasses.replace(read, files={}) == MANIFEST
    verify_files(folder, read)
    assert read_manifest(folder)[1] == fingerprint
    write_manifest(folder, dataclasses.replace(MANIFEST, logit_scale=14.4))
    assert read_manifest(folder)[1] != fingerprint


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def add_text(content: dict[str, Any], **changes: Any) -> None:
    content["graphs"]["text"] = content["graphs"]["image"] | {"outputs": ["text_embeds"]}
    content.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(format=FORMAT + 1),
            f"format {FORMAT + 1}, and this vlp reads format {FORMAT}: install a newer",
        ),
        (lambda c: c.update(format="x"), "format 'x', and this vlp reads"),
        (lambda c: c.pop("format"), "is no manifest of an artifact"),
        (lambda c: c.pop("verbs"), "verbs: missing"),
        (lambda c: c.update(colour="red"), "colour: unknown key"),
        (lambda c: c["graphs"]["image"].pop("file"), "graphs.image.file: missing"),
        (lambda c: c["graphs"]["image"].update(inputs="pixels"), "graphs.image.inputs: expected a list, got 'pixels'"),
        (lambda c: c["graphs"]["image"].update(backend="tvm"), "graphs.image.backend: 'tvm' is none of onnx, openvino"),
        (lambda c: c["graphs"]["image"].update(outputs=["embedding"]), "image_embeds is missing"),
        (lambda c: c["graphs"]["image"].update(file="other.onnx"), "'other.onnx' is not among files"),
        (lambda c: c["graphs"].update(sound=c["graphs"]["image"]), "graphs: 'sound' is unknown"),
        (lambda c: c["files"].update({"../x": c["files"]["README.md"]}), "'../x' is no path inside the folder"),
        (lambda c: c["files"].update({"/etc/passwd": c["files"]["README.md"]}), "is no path inside the folder"),
        (lambda c: c.update(image_size=[8]), "image_size: expected 2 values"),
        (lambda c: c.update(width=True), "width: expected int, got True"),
        (lambda c: c.update(precision="float8"), "precision: 'float8' is none of"),
        (lambda c: c.update(verbs=["sing"]), "verbs: 'sing' is unknown"),
        (lambda c: c.update(verbs=["caption"]), "verbs: caption needs the graphs prefill and step"),
        (lambda c: add_text(c, tokenizer=None), "graphs.text needs tokenizer, which is missing"),
        (lambda c: add_text(c, logit_scale=None, verbs=["similarity"]), "logit_scale: missing"),
        (lambda c: c["tokenizer"].update(cleaning="soap"), "unknown tokenizer.cleaning='soap'"),
        (lambda c: c["answers"].update(beams=2.5), "answers.beams: expected int, got 2.5"),
    ],
)
def test_one_sentence_for_each_wrong_manifest(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_manifest(folder, MANIFEST)
    _edit(folder, change)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_manifest(folder)
    assert str(folder / "manifest.json") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_sentence_for_each_missing_or_damaged_file(folder: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises((UserError, FileNotFoundError)) as raised:
            verify_files(path, read_manifest(path)[0])
        assert is_user_error(raised.value)
        return str(raised.value)

    assert "no manifest.json in it" in message(folder)
    assert "there is no such folder" in message(folder / "absent")
    assert "an artifact is a folder, and this is a file" in message(folder / "image.onnx")
    write_manifest(folder, MANIFEST)
    (folder / "image.onnx").write_bytes(b"other")
    assert "image.onnx: its content is not the exported one" in message(folder)
    (folder / "image.onnx").write_bytes(b"four")
    assert "image.onnx: 4 bytes instead of 5" in message(folder)
    (folder / "image.onnx").unlink()
    assert "image.onnx: missing" in message(folder)
    (folder / "manifest.json").write_text('{"format": 1, "graphs"')
    assert "manifest.json: damaged" in message(folder)
    (folder / "manifest.json").write_text('["format"]')
    assert "is no manifest of an artifact" in message(folder)
    (folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    assert "manifest.json: damaged" in message(folder)


def test_a_manifest_that_cannot_be_read_back_is_not_written(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'text\.onnx' is not among files"):
        write_manifest(
            folder, dataclasses.replace(MANIFEST, graphs={"image": dataclasses.replace(GRAPH, file="text.onnx")})
        )
    assert not (folder / "manifest.json").exists()
