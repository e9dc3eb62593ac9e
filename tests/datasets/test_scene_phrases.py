"""Each phrase names one thing of its scene, and its box is that thing's."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from vlp.datasets.scene_phrases import ScenePhrases
from vlp.datasets.scenes import SceneGenome
from vlp.system.errors import UserError

IMAGES = {"train": 40, "val": 30, "test": 5}


def test_phrases_name_one_thing_and_boxes_are_those_of_the_instances(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = ScenePhrases(root=tmp_path, images=IMAGES, **loading)
    data.prepare_data()
    content = json.loads(data.ground_truth("val").read_text())
    things: dict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for thing in content["annotations"]:
        x, y, w, h = thing["bbox"]
        things[thing["image_id"]].append((names[thing["category_id"]], [x, y, x + w, y + h]))
    samples = data.samples("val")
    phrases = [
        (sample.id, phrase, box)
        for sample in samples
        for phrase, box in zip(sample.captions, sample.boxes or (), strict=True)
    ]
    assert 25 <= len(samples) <= 30
    for image, phrase, box in phrases:
        of_shape = [corners for shape, corners in things[image] if phrase.endswith(f" {shape}")]
        assert list(box) in of_shape, phrase
        assert len(phrase.split()) == 5
    regions = sum(
        len(sample.captions)
        for sample in SceneGenome(root=tmp_path, images=IMAGES, boxes=True, **loading).samples("val")
    )
    assert len(phrases) < regions
    assert len({(image, box) for image, _, box in phrases}) == len(phrases)


def test_batches_have_a_box_for_each_caption(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = ScenePhrases(root=tmp_path, images=IMAGES, **loading)
    data.prepare_data()
    data.setup("fit")
    (batch,) = list(data.val_dataloader())[:1]
    assert batch.boxes is not None
    counts = batch.caption.mask.any(-1).sum(1).tolist() if batch.caption.ids.ndim == 3 else [1] * len(batch)
    assert [sorted(boxes.label.tolist()) for boxes in batch.boxes] == [list(range(count)) for count in counts]
    assert batch.frame is not None


def test_with_phrases_of_several_things_every_thing_has_its_phrase(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = ScenePhrases(root=tmp_path, images=IMAGES, several=True, names="pairs", captions=4, **loading)
    data.prepare_data()
    data.setup("fit")
    content = json.loads(data.ground_truth("val").read_text())
    assert data.class_names == tuple(category["name"] for category in content["categories"])
    assert data.category_ids == tuple(category["id"] for category in content["categories"])
    assert "red star" in data.class_names
    names = dict(zip(data.category_ids, data.class_names, strict=True))
    things: dict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    for thing in content["annotations"]:
        x, y, w, h = thing["bbox"]
        things[thing["image_id"]].append((names[thing["category_id"]], [x, y, x + w, y + h]))
    samples = data.samples("val")
    for sample in samples:
        named = [
            (" ".join(sample.captions[caption].split()[-2:]), list(box))
            for caption, box in zip(sample.box_captions, sample.boxes or (), strict=True)
        ]
        assert sorted(named) == sorted(things[sample.id])
    assert any(len(sample.boxes or ()) > len(sample.captions) for sample in samples)
    (batch,) = list(data.val_dataloader())[:1]
    assert batch.boxes is not None
    assert [len(boxes.label) for boxes in batch.boxes] == [len(things[number]) for number in batch.id.tolist()]


def test_classes_are_shapes_by_default_and_unknown_names_are_refused(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = ScenePhrases(root=tmp_path, images=IMAGES, **loading)
    data.prepare_data()
    data.setup("fit")
    assert data.class_names is not None
    assert "circle" in data.class_names
    with pytest.raises(UserError, match=r"data\.names='colours': choose words, synonyms, pairs"):
        ScenePhrases(root=tmp_path, images=IMAGES, names="colours", **loading)


def test_phrases_say_the_attributes_that_are_asked_for(tmp_path: Path, loading: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"root": tmp_path, "images": IMAGES, "several": True, "names": "pairs", **loading}
    lists = [["shape", "colour"], ["colour"], ["shape"], ["texture", "size"]]
    full, data = ScenePhrases(**settings), ScenePhrases(attributes=lists, **settings)
    data.prepare_data()
    for sample, whole in zip(data.samples("val"), full.samples("val"), strict=True):
        assert sample.id == whole.id
        said = defaultdict(set)
        for caption, box in zip(whole.box_captions, whole.boxes or (), strict=True):
            size, texture, colour, shape = whole.captions[caption].split()[1:]
            said[box] |= {f"{colour} {shape}", f"{colour} thing", shape, f"{size} {texture} thing"}
        named = defaultdict(set)
        for caption, box in zip(sample.box_captions, sample.boxes or (), strict=True):
            article, _, name = sample.captions[caption].partition(" ")
            assert article == ("an" if name[0] in "aeiou" else "a")
            named[box].add(name)
        assert named == said
        assert len(set(sample.captions)) == len(sample.captions)


def test_phrases_of_few_attributes_that_fit_several_things_are_left_out(
    tmp_path: Path, loading: dict[str, Any]
) -> None:
    data = ScenePhrases(root=tmp_path, images=IMAGES, attributes=[["colour"]], names="pairs", **loading)
    data.prepare_data()
    content = json.loads(data.ground_truth("val").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    colours: dict[int, list[str]] = defaultdict(list)
    for thing in content["annotations"]:
        colours[thing["image_id"]].append(names[thing["category_id"]].split()[0])
    samples = data.samples("val")
    assert len(samples) > 20
    for sample in samples:
        once = [colour for colour in colours[sample.id] if colours[sample.id].count(colour) == 1]
        assert sorted(caption.split()[1] for caption in sample.captions) == sorted(once)


@pytest.mark.parametrize("lists", [[], [[]], [["colour", "place"]], ["colour"]])
def test_attributes_that_no_phrase_says_are_refused(tmp_path: Path, loading: dict[str, Any], lists: Any) -> None:
    with pytest.raises(UserError, match=r"data\.attributes=.*: give lists of size, texture, colour, shape, such as"):
        ScenePhrases(root=tmp_path, images=IMAGES, attributes=lists, **loading)
