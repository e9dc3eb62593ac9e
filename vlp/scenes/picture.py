"""A drawn scene and what is marked in it: the annotations that all formats are written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp.scenes.draw import bounding_box, encode_mask_rle
from vlp.scenes.scene import Scene

SPLITS = ("train", "restval", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image and what is marked in it: things, each by itself, and crowds of them.

    Ids of annotations are image id × 100 + position, so unique in all splits.
    """

    id: int
    split: str
    file: str
    size: int
    scene: Scene
    members: tuple[tuple[int, ...], ...]  # of each annotation, the positions of its things; several = a crowd
    boxes: tuple[list[int], ...]  # left, top, width, height
    masks: tuple[dict[str, Any], ...]
    areas: tuple[int, ...]

    def shape(self, annotation: int) -> str:
        return self.scene.things[self.members[annotation][0]].shape

    def colour(self, annotation: int) -> str:
        """Of its first thing: those of a crowd may have several."""
        return self.scene.things[self.members[annotation][0]].colour


def mark_things(
    scene: Scene,
    masks: Sequence[np.ndarray],
    members: tuple[tuple[int, ...], ...],
    *,
    number: int,
    split: str,
    size: int,
) -> Picture:
    """masks: bool [size, size] of each thing.  members: the things of each annotation.  number: of the image in its split."""
    number += SPLITS.index(split) * 10_000_000
    file = f"COCO_{split}_{number:012d}.png"
    return Picture(id=number, split=split, file=file, size=size, scene=scene, **mark_annotations(members, masks))


def mark_annotations(members: Sequence[tuple[int, ...]], masks: Sequence[np.ndarray]) -> dict[str, Any]:
    """The fields of a Picture that say where its annotations are."""
    united = [np.any([masks[member] for member in of_one], axis=0) for of_one in members]
    return {
        "members": tuple(members),
        "boxes": tuple(bounding_box(mask) for mask in united),
        "masks": tuple(encode_mask_rle(mask) for mask in united),
        "areas": tuple(int(mask.sum()) for mask in united),
    }
