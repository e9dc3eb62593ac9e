"""Panoptic PNGs of generated scenes against the pixels of the pictures and the masks of their things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scenes.conftest import load
from tests.scenes.test_draw import decode
from vlp.scenes.draw import draw_scene, frame_mask
from vlp.scenes.scene import sample_scene

SPLITS = ("train", "restval", "val", "test")


def ids_of(root: Path, split: str, name: str) -> np.ndarray:
    colours = np.asarray(Image.open(root / f"annotations/panoptic_{split}" / name)).astype(int)
    assert colours.ndim == 3
    return colours @ np.array([1, 256, 65536])


def segments_of(root: Path, split: str) -> list[tuple[dict[str, Any], np.ndarray]]:
    entries = load(root, f"annotations/panoptic_{split}.json")["annotations"]
    return [(entry, ids_of(root, split, entry["file_name"])) for entry in entries]


@pytest.mark.parametrize("folder", ["referring", "crowded_root"])
def test_segments_cover_every_pixel_with_exact_boxes_and_areas(folder: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(folder)
    seen: set[int] = set()
    for split in SPLITS:
        for entry, ids in segments_of(root, split):
            listed = {segment["id"]: segment for segment in entry["segments_info"]}
            assert set(np.unique(ids).tolist()) == set(listed)
            assert min(listed) > 0
            for number, segment in listed.items():
                assert segment.keys() == {"id", "category_id", "iscrowd", "bbox", "area"}
                rows, columns = np.nonzero(ids == number)
                assert segment["area"] == len(rows)
                left, top = columns.min(), rows.min()
                assert segment["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            seen |= set(listed)
    assert max(seen) > 1 << 23  # all three bytes of a colour
    assert len({number & 255 for number in seen}) > 100


@pytest.mark.parametrize("folder", ["referring", "crowded_root"])
def test_things_are_the_instances_and_the_rest_is_stuff(folder: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(folder)
    categories = {c["id"]: c for c in load(root, "annotations/panoptic_val.json")["categories"]}
    instances = load(root, "annotations/instances_val.json")
    assert {c["id"]: c["name"] for c in instances["categories"]} == {
        number: c["name"] for number, c in categories.items() if c["isthing"]
    }
    assert sorted(categories) != list(range(1, len(categories) + 1))
    for entry, ids in segments_of(root, "val"):
        masks = [a for a in instances["annotations"] if a["image_id"] == entry["image_id"]]
        things = [s for s in entry["segments_info"] if categories[s["category_id"]]["isthing"]]
        assert len(things) == len(masks)
        for segment, annotation in zip(things, masks, strict=True):
            assert np.array_equal(ids == segment["id"], decode(annotation["segmentation"]))
            assert (segment["category_id"], segment["iscrowd"]) == (annotation["category_id"], annotation["iscrowd"])
        stuff = [s for s in entry["segments_info"] if not categories[s["category_id"]]["isthing"]]
        assert {categories[s["category_id"]]["name"] for s in stuff} <= {"background", "frame"}
        assert not any(s["iscrowd"] for s in stuff)


def test_the_frame_has_the_colours_of_its_sides() -> None:
    """Without things: the pixels of the frame's mask are those of the four sides, all others of the shaded ground."""
    for index in range(30):
        drawn = sample_scene(seed=0, split="val", index=index)
        object.__setattr__(drawn, "things", ())
        pixels, _ = draw_scene(drawn, 64)
        sides = [np.abs(pixels.astype(int) - colour).max(2) == 0 for _, colour in drawn.frame]
        assert np.array_equal(np.any(sides, axis=0), frame_mask(drawn, 64))
