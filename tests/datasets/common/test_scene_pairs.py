"""Held-out pairs of a colour and a shape: training never sees one, in no data set of scenes, and evaluation can tell them."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vlp.datasets.common.scene_pairs import PairChoice, image_number, read_shown_pairs
from vlp.datasets.scene_phrases import ScenePhrases
from vlp.datasets.scenes import SceneGenome, SceneQuestions, SceneReferences, Scenes, draw_scenes
from vlp.scenes.pairs import named_pairs, parse_pairs
from vlp.structures import Sample
from vlp.system.errors import UserError

COUNTS = {"train": 60, "restval": 5, "val": 40, "test": 5}
HELD_OUT = ["red circle", "blue square", "green triangle", "yellow star"]
UNSEEN = parse_pairs(HELD_OUT)
Kinds = dict[str, tuple[Any, dict[str, Any]]]
KINDS: Kinds = {
    "captions": (Scenes, {}),
    "boxes": (Scenes, {"boxes": True, "names": "pairs"}),
    "crowded": (Scenes, {"crowded": True, "size": 96}),
    "questions": (SceneQuestions, {}),
    "regions": (SceneGenome, {"boxes": True}),
    "phrases": (ScenePhrases, {}),
    "phrases of several": (ScenePhrases, {"several": True}),
    "crops": (SceneGenome, {"crop": True}),
    "references": (SceneReferences, {"splits": {"train": "train", "val": "val", "test": "test"}}),
    "genome questions": (SceneGenome, {"content": "questions"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


def read(folder: Path, loading: dict[str, Any], kind: str, split: str, **changed: Any) -> list[Sample]:
    made, settings = KINDS[kind]
    if made is SceneQuestions:
        settings = settings | {"in_vocabulary_only": False, "min_answer_count": 1}
    data = made(root=folder, **{"images": COUNTS, "size": 32, **loading, **settings, **changed})
    data.prepare_data()
    return list(data.split(split))


def shown(sample: Sample) -> frozenset[Any]:
    root = Path(str(sample.image)).parent.parent
    return _cached(root)[image_number(str(sample.image))]


_cached = cache(read_shown_pairs)


def texts(sample: Sample) -> tuple[str, ...]:
    return sample.captions if sample.question is None else (sample.question,)


@pytest.mark.parametrize("kind", KINDS)
def test_training_shows_and_names_no_such_pair(folder: Path, loading: dict[str, Any], kind: str) -> None:
    every = read(folder, loading, kind, "train")
    kept = read(folder, loading, kind, "train", held_out_pairs=HELD_OUT)
    assert any(shown(sample) & UNSEEN for sample in every)
    assert 0 < len(kept) < len(every)
    for sample in kept:
        assert not shown(sample) & UNSEEN
        assert not any(named_pairs(text) & UNSEEN for text in texts(sample))
    if kind != "questions":  # of these, some that ask for an absent pair are left out too
        assert len(kept) == sum(not shown(sample) & UNSEEN for sample in every)
        in_both = {sample.sample for sample in kept}
        assert kept == [dataclasses.replace(s) for s in every if s.sample in in_both and not shown(s) & UNSEEN]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_divided(folder: Path, loading: dict[str, Any], kind: str) -> None:
    every = read(folder, loading, kind, "val", held_out_pairs=HELD_OUT)
    assert every == read(folder, loading, kind, "val")
    divided = {
        pairs: read(folder, loading, kind, "val", held_out_pairs=HELD_OUT, pairs=pairs) for pairs in ("seen", "unseen")
    }
    assert all(divided.values())
    if kind in ("captions", "boxes", "crowded"):
        for pairs, samples in divided.items():
            assert all(bool(shown(sample) & UNSEEN) == (pairs == "unseen") for sample in samples)
        ids = {pairs: {sample.id for sample in samples} for pairs, samples in divided.items()}
        assert not ids["seen"] & ids["unseen"]
        assert ids["seen"] | ids["unseen"] == {sample.id for sample in every}
        return
    for pairs, samples in divided.items():
        for sample in samples:
            assert texts(sample)
            for text in texts(sample):
                assert named_pairs(text)
                assert bool(named_pairs(text) & UNSEEN) == (pairs == "unseen")
    named = [text for sample in every for text in texts(sample) if named_pairs(text)]
    assert sorted(named) == sorted(text for samples in divided.values() for s in samples for text in texts(s))


def test_boxes_stay_with_their_phrases(folder: Path, loading: dict[str, Any]) -> None:
    boxes = {
        (sample.id, text): box
        for sample in read(folder, loading, "regions", "val")
        for text, box in zip(sample.captions, sample.boxes or (), strict=True)
    }
    unseen = read(folder, loading, "regions", "val", held_out_pairs=HELD_OUT, pairs="unseen")
    for sample in unseen:
        for text, box in zip(sample.captions, sample.boxes or (), strict=True):
            assert boxes[sample.id, text] == box
    assert 0 < sum(len(sample.captions) for sample in unseen) < len(boxes)


def test_boxes_of_several_to_a_caption_and_of_classes() -> None:
    choice = PairChoice(UNSEEN, "unseen")
    captions = ("a red circle", "a red square", "two red circles")
    sample = Sample(
        id=1, sample=1, image=Path("COCO_val_000000000001.png"), captions=captions, boxes=((0, 0, 1, 1), (0, 0, 2, 2),
        (0, 0, 3, 3), (0, 0, 4, 4)), box_captions=(2, 1, 0, 2), box_masks=("a", "b", "c", "d"),
    )  # fmt: skip
    (kept,) = choice.choose_texts([sample], "val", Path())
    assert kept.captions == ("a red circle", "two red circles")
    assert kept.boxes == ((0, 0, 1, 1), (0, 0, 3, 3), (0, 0, 4, 4))
    assert (kept.box_captions, kept.box_masks) == ((1, 0, 1), ("a", "c", "d"))
    (of_classes,) = choice.choose_texts(
        [dataclasses.replace(sample, box_labels=(1, 1, 1, 1), box_captions=())], "val", Path()
    )
    assert of_classes.boxes == sample.boxes
    assert choice.choose_texts([dataclasses.replace(sample, captions=captions[1:2])], "val", Path()) == []


def test_what_pictures_show_is_what_the_files_of_instances_say(folder: Path, loading: dict[str, Any]) -> None:
    for crowded, size in ((False, 32), (True, 96)):
        data = Scenes(root=folder, **{"images": COUNTS, "size": size, "crowded": crowded, **loading})
        draw_scenes(data.root, **data.drawn, additions=("pairs",))
        listed = read_shown_pairs(data.root)
        assert len(listed) == sum(COUNTS.values())
        content = json.loads((data.root / "pairs/instances_val.json").read_text())
        names = {category["id"]: tuple(category["name"].split()) for category in content["categories"]}
        for image in content["images"]:
            marked = {names[a["category_id"]] for a in content["annotations"] if a["image_id"] == image["id"]}
            assert listed[image["id"]] == marked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out_pairs": ["red starr"]}, "'red starr' is no colour and shape"),
        ({"pairs": "novel"}, "data.pairs='novel': choose all, seen, unseen"),
        ({"pairs": "seen"}, "list some in data.held_out_pairs"),
    ],
)
def test_mistakes_are_named(folder: Path, loading: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    for made in (Scenes, SceneGenome):
        with pytest.raises(UserError, match=message):
            made(root=folder, images=COUNTS, **loading, **settings)
