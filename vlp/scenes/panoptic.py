"""Generated scenes in the panoptic format of COCO: every pixel belongs to a thing, to the frame or to the background.

    annotations/panoptic_{split}.json      {"annotations": [{"image_id", "file_name", "segments_info": [{"id",
                                           "category_id", "iscrowd", "bbox", "area"}, ..]}, ..], "categories": [..]}
    annotations/panoptic_{split}/*.png     a segment's id is red + 256 · green + 256² · blue

Things have the categories of instances_{split}.json, the two kinds of stuff ids further on, as COCO's have. Ids of segments
are drawn by lot from all numbers of 24 bits, so that a reader that keeps one byte of them is wrong. A pixel of a thing's
border belongs to what covers the most of it. Kirillov et al., "Panoptic Segmentation", CVPR 2019; cocodataset.org.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlp.scenes.draw import bounding_box, frame_mask
from vlp.scenes.formats import CATEGORIES, CATEGORY_IDS, LICENCE, coco_images, dataset_info
from vlp.scenes.picture import Picture

STUFF = {"background": 92, "frame": 95}
PANOPTIC_CATEGORIES = [entry | {"isthing": 1} for entry in CATEGORIES] + [
    {"supercategory": "surroundings", "id": number, "name": name, "isthing": 0} for name, number in STUFF.items()
]


def segment_picture(picture: Picture, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
    """masks: bool [size, size] of each thing, disjoint.

    The colours uint8 [size, size, 3] of a picture's segments, and its entry among the annotations.
    """
    names = [picture.shape(annotation) for annotation in range(len(picture.members))]
    categories = [STUFF["background"], STUFF["frame"], *(CATEGORY_IDS[name] for name in names)]
    crowds = [0, 0, *(int(len(members) > 1) for members in picture.members)]
    number = np.where(frame_mask(picture.scene, picture.size), 1, 0)  # of each pixel's segment
    for annotation, members in enumerate(picture.members):
        for member in members:
            number[masks[member]] = annotation + 2
    ids = np.array(random.Random(picture.id).sample(range(1, 1 << 24), len(categories)))
    segments = []
    for position, (category, crowd) in enumerate(zip(categories, crowds, strict=True)):
        mask = number == position
        if mask.any():  # things may hide the frame
            segment = {"id": int(ids[position]), "category_id": category, "iscrowd": crowd}
            segments.append(segment | {"bbox": bounding_box(mask), "area": int(mask.sum())})
    colours = ids[number][:, :, None] >> np.array([0, 8, 16]) & 255
    return colours.astype(np.uint8), {"segments_info": segments, "file_name": picture.file, "image_id": picture.id}


def coco_panoptic(pictures: Sequence[Picture], annotations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    head = {"info": dataset_info("panoptic"), "licenses": [LICENCE], "images": coco_images(pictures)}
    return head | {"annotations": list(annotations), "categories": PANOPTIC_CATEGORIES}
