"""Crowded scenes: every pixel is what was drawn there, and boxes, areas and crowds are those of what is visible."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scenes.conftest import COUNTS, load
from tests.scenes.test_draw import decode
from tests.scenes.test_generate import REAL, digest, kinds
from vlp.scenes.crowded import CROWD, VISIBLE, find_crowds, full_mask, sample_crowded_scene, touches
from vlp.scenes.draw import draw_layers
from vlp.scenes.generate import describe_crowded_scene, generate
from vlp.scenes.scene import Scene, Thing

SCENES = [sample_crowded_scene(seed=3, split="train", index=index) for index in range(80)]


def painted(scene: Scene, white: set[int]) -> np.ndarray:
    """The scene in black, but for some of its things, in full outline white: how much of each pixel these are."""
    things = tuple(
        replace(thing, texture="plain", rgb=(255,) * 3 if position in white else (0, 0, 0))
        for position, thing in enumerate(scene.things)
    )
    black = Scene(things=things, background="white", rgb=(0, 0, 0), frame=(), slope=(0.0, 0.0))
    return draw_layers(black, 128)[0][:, :, 0]


def test_masks_are_disjoint_and_are_the_pixels_that_things_are_drawn_at() -> None:
    """A pixel of which a thing makes up more than half is in its mask, and none of which it makes up less than a quarter; a
    pixel that is mostly ground is in none."""
    shared = 0
    for scene in SCENES[:25]:
        _, masks = draw_layers(scene, 128)
        assert sum((mask.astype(int) for mask in masks), np.zeros((128, 128), int)).max() <= 1
        union = np.any([*masks, np.zeros((128, 128), bool)], axis=0)
        things = painted(scene, set(range(len(masks))))
        assert not union[things < 127].any()
        assert union[things > 192].all()
        for position, mask in enumerate(masks):
            own = painted(scene, {position})
            assert mask[own > 128].all()
            assert not mask[own < 64].any()
            shared += int((mask & (own < 128)).sum())
        for first, second in pairwise(range(len(masks))):  # the larger share has the pixel
            one, other = (painted(scene, {position}).astype(int) for position in (first, second))
            assert not (masks[first] & (other > one + 1)).any()
    assert shared > 20  # pixels of borders between things, where no one has a half


def test_the_picture_inside_a_mask_is_the_thing_alone() -> None:
    for scene in SCENES[:25]:
        pixels, masks = draw_layers(scene, 128)
        for position, mask in enumerate(masks):
            alone = Scene(
                things=(scene.things[position],),
                background=scene.background,
                rgb=scene.rgb,
                frame=scene.frame,
                slope=scene.slope,
            )
            inner = mask & (painted(scene, {position}) == 255)
            assert np.array_equal(pixels[inner], draw_layers(alone, 128)[0][inner])


def test_later_things_hide_earlier_ones_but_never_almost_completely() -> None:
    hidden = 0
    for scene in SCENES:
        _, masks = draw_layers(scene, 128)
        for position, (thing, mask) in enumerate(zip(scene.things, masks, strict=True)):
            full = full_mask(thing)
            assert mask.sum() > (VISIBLE - 0.1) * full.sum()  # a pixel of a border may belong to a neighbour
            assert mask.sum() >= 10
            later = np.any([full_mask(other) for other in scene.things[position + 1 :]] + [np.zeros_like(full)], axis=0)
            hidden += bool(mask.sum() < 0.8 * full.sum() and (full & later).any())
    assert hidden > 30


def test_the_numbers_of_things_sizes_and_empty_scenes() -> None:
    many = [sample_crowded_scene(seed=5, split="val", index=index) for index in range(400)]
    empty = sum(not scene.things for scene in many) / len(many)
    assert 0.055 < empty < 0.145  # one in ten; the standard deviation is 0.015
    counts = {len(scene.things) for scene in many if scene.things}
    assert (min(counts), max(counts)) == (4, 12)
    radii = [thing.radius for scene in many for thing in scene.things]
    assert 0.04 <= min(radii) < 0.042
    assert 0.2 < max(radii) <= 0.25
    crowds = sum(any(len(members) > 1 for members in find_crowds(scene.things)) for scene in many) / len(many)
    assert 0.1 < crowds < 0.3


def test_crowds_are_five_and_more_things_of_one_shape_that_touch() -> None:
    sizes = []
    for scene in SCENES:
        annotations = find_crowds(scene.things)
        assert sorted(position for members in annotations for position in members) == list(range(len(scene.things)))
        masks = [full_mask(thing) for thing in scene.things]
        for members in annotations:
            assert len({scene.things[position].shape for position in members}) == 1
            reached = {members[0]}
            for _ in members:
                reached |= {b for b in members if any(touches(masks[a], masks[b]) for a in reached)}
            assert reached == set(members)
            sizes.append(len(members))
    assert set(sizes) - {1}
    assert min(set(sizes) - {1}) >= CROWD


def thing(x: float, y: float, shape: str = "square") -> Thing:
    return Thing(
        shape=shape, colour="red", texture="plain", size="", group=0, rgb=(200, 0, 0), x=x, y=y, radius=0.05, angle=0.0
    )


def test_four_that_touch_are_no_crowd_and_others_stay_alone() -> None:
    row = [thing(0.1 + 0.07 * i, 0.5) for i in range(5)]  # a square's side is 1.41 of its radius
    far, other = thing(0.9, 0.9), thing(0.1, 0.5, shape="circle")
    assert find_crowds(row) == ((0, 1, 2, 3, 4),)
    assert find_crowds(row[:4]) == ((0,), (1,), (2,), (3,))
    assert find_crowds([far, *row, other]) == ((0,), (1, 2, 3, 4, 5), (6,))
    broken = [*row[:2], replace(row[2], y=0.9), *row[3:]]
    assert find_crowds(broken) == ((0,), (1,), (2,), (3,), (4,))


def test_files_have_the_boxes_and_areas_of_visible_masks(crowded_root: Path) -> None:
    crowds = 0
    for split in COUNTS:
        content = load(crowded_root, f"annotations/instances_{split}.json")
        assert len(content["images"]) == COUNTS[split]
        for image in content["images"]:
            marked = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            pixels = np.asarray(Image.open(crowded_root / image["coco_url"]))
            assert pixels.shape == (128, 128, 3)
            masks = [decode(a["segmentation"]) for a in marked]
            assert not masks or sum(mask.astype(int) for mask in masks).max() == 1
            for mask, annotation in zip(masks, marked, strict=True):
                rows, columns = np.nonzero(mask)
                left, top = columns.min(), rows.min()
                assert annotation["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
                assert annotation["area"] == mask.sum()
                crowds += annotation["iscrowd"]
    assert crowds > 3


@pytest.mark.parametrize("name", ["annotations/captions_val.json", "annotations/instances_val.json"])
def test_keys_and_types_are_those_of_the_real_files(crowded_root: Path, shared: Path, name: str) -> None:
    ours, real = kinds(load(crowded_root, name)), kinds(load(shared / "data", REAL[name]))
    if "instances" in name:
        assert ours["annotations"][0].pop("segmentation") == {"counts": ["int"], "size": ["int"]}
        assert real["annotations"][0].pop("segmentation") == [["float"]]
    assert ours == real


def test_a_set_is_the_same_each_time_and_begins_a_larger_one(tmp_path: Path, crowded_root: Path) -> None:
    generate(tmp_path / "few", images={"train": 3, "val": 2}, size=128, seed=3, crowded=True)
    generate(tmp_path / "again", images={"train": 3, "val": 2}, size=128, seed=3, crowded=True)
    few = digest(tmp_path / "few")
    assert few == digest(tmp_path / "again")
    many = digest(crowded_root)
    images = [name for name in few if name.endswith(".png")]
    assert len(images) == 5
    assert all(many[name] == few[name] for name in images)


def test_a_scene_does_not_depend_on_the_size_it_is_drawn_at() -> None:
    for index in range(10):
        small, large = (describe_crowded_scene(seed=0, split="val", index=index, size=size)[0] for size in (96, 224))
        assert (small.scene, small.members, small.captions) == (large.scene, large.members, large.captions)
        assert all(area >= 6 for area in small.areas)


def test_kinds_of_scenes_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    out, wanted = tmp_path / "scenes", {"images": {"train": 2}, "size": 96, "seed": 0}
    generate(out, **wanted, crowded=True)
    assert json.loads((out / "manifest.json").read_text())["crowded"] is True
    with pytest.raises(FileExistsError, match="delete it or name another folder"):
        generate(out, **wanted)
    with pytest.raises(ValueError, match="crowded scenes of 64 pixels are too small"):
        generate(tmp_path / "small", **(wanted | {"size": 64}), crowded=True)


def test_ids_differ_from_those_of_the_default_set(crowded_root: Path, root: Path) -> None:
    ids: list[set[Any]] = [{i["cocoid"] for i in load(r, "dataset_coco.json")["images"]} for r in (crowded_root, root)]
    assert not ids[0] & ids[1]
