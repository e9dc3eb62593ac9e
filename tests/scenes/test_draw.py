"""Boxes, masks, colours and backgrounds in the files against the pixels in the images."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scenes.conftest import Seen, load
from vlp.scenes.draw import bounding_box, draw_scene, encode_mask_rle
from vlp.scenes.scene import sample_scene

HUES = {"red": 0, "orange": 30, "yellow": 56, "green": 122, "blue": 226, "purple": 277, "pink": 326}


def decode(code: dict[str, Any]) -> np.ndarray:
    runs = np.repeat(np.arange(len(code["counts"])) % 2, code["counts"])
    return runs.reshape(code["size"], order="F").astype(bool)


def pixels_of(root: Path, record: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(root / record["coco_url"]).convert("RGB"))


def instances(root: Path) -> list[tuple[np.ndarray, list[dict[str, Any]]]]:
    file = load(root, "annotations/instances_val.json")
    owned = [[a for a in file["annotations"] if a["image_id"] == image["id"]] for image in file["images"]]
    return [(pixels_of(root, image), found) for image, found in zip(file["images"], owned, strict=True)]


def test_boxes_and_areas_are_those_of_the_masks_and_masks_are_apart(root: Path) -> None:
    for pixels, marked in instances(root):
        masks = [decode(a["segmentation"]) for a in marked]
        assert sum(mask.astype(int) for mask in masks).max() == 1
        for mask, annotation in zip(masks, marked, strict=True):
            assert mask.shape == pixels.shape[:2]
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
            assert annotation["area"] == mask.sum() > 20


def test_masks_decode_with_pycocotools(root: Path) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    for _, marked in instances(root):
        for annotation in marked:
            code = mask_tools.frPyObjects(annotation["segmentation"], *annotation["segmentation"]["size"])
            assert np.array_equal(mask_tools.decode(code).astype(bool), decode(annotation["segmentation"]))
            assert mask_tools.toBbox(code).tolist() == annotation["bbox"]


def test_the_pixels_under_a_mask_have_the_colour_that_is_said(root: Path, seen: dict[int, list[Seen]]) -> None:
    for pixels, marked in instances(root):
        for thing, annotation in zip(seen[marked[0]["image_id"]], marked, strict=True):
            inside = pixels[decode(annotation["segmentation"])] / 255
            hues = [(360 * h, s) for h, s, v in (colorsys.rgb_to_hsv(*rgb) for rgb in inside) if s > 0.35 and v > 0.3]
            assert len(hues) > 0.25 * len(inside)
            named = [min(HUES, key=lambda name: abs((h - HUES[name] + 180) % 360 - 180)) for h, _ in hues]
            assert max(set(named), key=named.count) == thing.colour


def test_a_plain_thing_is_of_one_colour_and_a_textured_one_is_not(root: Path, seen: dict[int, list[Seen]]) -> None:
    for pixels, marked in instances(root):
        for thing, annotation in zip(seen[marked[0]["image_id"]], marked, strict=True):
            inside = pixels[decode(annotation["segmentation"])]
            colours, counts = np.unique(inside.astype(int), axis=0, return_counts=True)
            first, second = colours[np.argsort(-counts)[:2]]
            shaded = any(
                abs(2 * ink - plain - end).max() <= 2
                for ink, plain in ((first, second), (second, first))
                for end in (0, 255)
            )
            assert (shaded and np.sort(counts)[-2] > 0.08 * len(inside)) == (thing.texture != "plain"), thing


def test_the_background_is_what_the_answer_says(root: Path, grounds: dict[int, str]) -> None:
    file = load(root, "annotations/instances_val.json")
    for image, (pixels, marked) in zip(file["images"], instances(root), strict=True):
        free = ~np.any([decode(a["segmentation"]) for a in marked], axis=0)
        free[:5] = free[-5:] = free[:, :5] = free[:, -5:] = False
        red, _, blue = (float(np.median(pixels[free][:, channel])) for channel in range(3))
        name = "black" if red < 60 else "beige" if red - blue > 25 else "gray" if red < 190 else "white"
        assert name == grounds[image["id"]]


@pytest.mark.parametrize("size", [32, 64, 97, 224])
def test_every_size_gives_every_thing_a_mask_inside_the_frame(size: int) -> None:
    for index in range(20):
        pixels, masks = draw_scene(sample_scene(seed=0, split="test", index=index), size)
        assert pixels.shape == (size, size, 3)
        for mask in masks:
            left, top, width, height = bounding_box(mask)
            assert min(left, top) >= 1
            assert max(left + width, top + height) <= size - 1


def test_run_lengths_of_edge_cases() -> None:
    for mask in (np.zeros((2, 3), bool), np.ones((2, 3), bool), np.array([[1, 0], [0, 1]], bool)):
        assert np.array_equal(decode(encode_mask_rle(mask)), mask)
