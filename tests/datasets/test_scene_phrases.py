"""Each phrase names one thing of its scene, and its box is that thing's."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from vlp.datasets.scene_phrases import ScenePhrases
from vlp.datasets.scenes import SceneGenome

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
