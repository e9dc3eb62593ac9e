"""COCO's panoptic annotations: every pixel belongs to a segment, and every segment has one of 133 categories.

    annotations/panoptic_val2017.json   {"annotations": [{"image_id", "file_name": "000000000139.png",
                                         "segments_info": [{"id", "category_id", "iscrowd", ..}, ..]}, ..], "categories": ..}
    annotations/panoptic_val2017/*.png  a segment's id is red + 256 · green + 256² · blue; 0 is no segment

Kirillov et al., "Panoptic Segmentation", CVPR 2019; cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, objects_under_key, read_json
from vlp.data.issues import DataError, Faults
from vlp.datasets.common.coco_instances import annotations_of_known_images, read_categories
from vlp.structures import Segment


@dataclass
class PanopticAnnotations:
    """By image id: the name of the picture of segments, and the segments, whose categories are counted without gaps.
    names, ids, things: of the categories."""

    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    things: tuple[bool, ...] = ()
    files: dict[int, object] = field(default_factory=dict)
    segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict)


def read_panoptic(path: Path, images: Container[int], *, faults: Faults) -> PanopticAnnotations:
    found = PanopticAnnotations()
    annotations: list[dict[str, Any]] = []
    index: dict[int, int] = {}
    with faults.catch_errors():
        content = read_json(path, description="the panoptic annotations")
        found.names, index = read_categories(content, place=path, faults=faults)
        found.ids, found.things = tuple(index), _read_things(content, index, path)
        annotations = objects_under_key(content, "annotations", location=path)
    # they have no id of their own: there is one for each image
    for image, annotation in annotations_of_known_images(
        dict(enumerate(annotations)), images, "segments", place=path, faults=faults
    ):
        place = f"{path}: image {image}"
        with faults.catch_errors():
            if image in found.files:
                raise DataError("duplicate annotation id", f"{place} has segments more than once")
            segments = []
            for segment in objects_under_key(annotation, "segments_info", location=place):
                number, category = segment.get("id"), segment.get("category_id")
                if not isinstance(number, int) or not isinstance(category, int) or category not in index:
                    raise DataError(
                        "unknown category", f"{place}: segment {number} has the unknown category {category}"
                    )
                area = segment.get("area")
                segments.append(
                    Segment(
                        id=number,
                        label=index[category],
                        crowd=bool(segment.get("iscrowd")),
                        area=area if is_id(area) else None,
                    )
                )
            found.segments[image] = tuple(segments)
            found.files[image] = annotation.get("file_name")
    return found


def _read_things(content: object, index: Mapping[int, int], path: Path) -> tuple[bool, ...]:
    """Of each category, whether it is of things; where `isthing` is absent it is."""
    categories = objects_under_key(content, "categories", location=path)
    things = {item["id"]: bool(item.get("isthing", 1)) for item in categories if is_id(item.get("id"))}
    return tuple(things[number] for number in index)
