from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlp.data.marks import SCENE_COLOURS
from vlp.data.shards.record import sample_from_record, sample_to_json
from vlp.data.transforms import EvalTransform
from vlp.datasets.common.tagged_texts import NAMES
from vlp.datasets.scenes_vcr import SceneVCR
from vlp.structures import Member, Sample
from vlp.system.errors import UserError

IMAGES = {"train": 12, "val": 6, "test": 6}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes_vcr")


def read(root: Path, loading: dict[str, Any], **changed: Any) -> SceneVCR:
    transform = {kind: EvalTransform(image_size=64) for kind in ("train", "eval")}
    data = SceneVCR(root=root, images=IMAGES, **changed, **loading | {"transform": transform})
    data.prepare_data()
    return data


def test_things_have_the_name_and_the_colour_of_their_number(root: Path, loading: dict[str, Any]) -> None:
    data = read(root, loading)
    assert [len(data.split(split)) for split in IMAGES] == list(IMAGES.values())
    for sample in data.split("train"):
        assert sample.mark_colours == tuple(SCENE_COLOURS[position] for position in sample.marks)
        assert {position for tag in sample.tags for position in tag.boxes} == set(sample.marks)
        assert not any("thing" in text.split() for text in sample.texts)
        assert (sample.label is None, sample.rationale_label is None) == (False, False)


def test_every_mark_is_in_the_picture_at_its_box(root: Path, loading: dict[str, Any]) -> None:
    data = read(root, loading)
    data.setup("validate")
    for batch in data.val_dataloader():
        for pixels, sample in zip(batch.image.pixels, batch.raw, strict=True):
            for position, colour in zip(sample.marks, sample.mark_colours, strict=True):
                left, top, right, bottom = (int(edge) for edge in sample.boxes[position])
                assert pixels[:, top - 1, left].tolist() == pixels[:, bottom, right].tolist() == list(colour)


def test_other_kinds_of_rationales_are_of_the_same_questions(root: Path, loading: dict[str, Any]) -> None:
    agreeing, mixed = (read(root, loading, rationales=kind) for kind in ("agreeing", "mixed"))
    assert list(agreeing.split("train")) == list(mixed.split("train"))
    for one, other in zip(agreeing.split("val"), mixed.split("val"), strict=True):
        assert (one.question, one.choices, one.label) == (other.question, other.choices, other.label)
        assert one.rationales[one.rationale_label or 0] == other.rationales[other.rationale_label or 0]
        assert set(one.rationales) != set(other.rationales)
    with pytest.raises(UserError, match=r"data\.rationales='hard': choose agreeing or mixed"):
        read(root, loading, rationales="hard")


def test_a_shard_keeps_what_a_question_has(root: Path, loading: dict[str, Any]) -> None:
    sample: Sample = read(root, loading).split("val")[0]
    member = Member(archive=Path("a.tar"), name="0.png", offset=512, size=9)
    kept = sample_from_record(json.loads(sample_to_json(sample)), image=member, number=0)
    for name in (
        "question",
        "choices",
        "label",
        "rationales",
        "rationale_label",
        "tags",
        "marks",
        "mark_colours",
        "boxes",
    ):
        assert getattr(kept, name) == getattr(sample, name)


def test_the_fingerprint_tells_other_rationales(root: Path, loading: dict[str, Any]) -> None:
    prints = {kind: read(root, loading, rationales=kind).fingerprint("val") for kind in ("agreeing", "mixed")}
    assert prints["agreeing"] != prints["mixed"]
    assert prints["agreeing"] != read(root, loading, marks=False).fingerprint("val")


def test_descriptions_say_what_each_named_thing_is(root: Path, loading: dict[str, Any]) -> None:
    data = read(root, loading, descriptions=True, right_texts=True)
    for sample in data.split("train"):
        right, *descriptions = sample.captions
        assert right.startswith(sample.question)
        things = json.loads(Path(sample.image).with_suffix(".json").read_text())["things"]
        expected = []
        for position in sample.marks:
            thing, row, column = things[position], *things[position]["cell"]
            look = f"a {thing['size']} {thing['colour']} {thing['shape']}"
            place = f"at the {('top', 'middle', 'bottom')[row]} {('left', 'center', 'right')[column]}"
            expected.append(f"{NAMES[position]} is {look} {place}.")
        assert descriptions == expected
    assert not any(sample.captions for sample in data.split("val"))
    unmarked = read(root, loading, descriptions=True, marks=False)
    assert [s.captions for s in unmarked.split("train")] == [s.captions[1:] for s in data.split("train")]
