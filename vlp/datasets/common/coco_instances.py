"""COCO's instances file: which categories an image shows, and the boxes of its objects.

    {"images": .., "categories": [{"id": 1, "name": "person"}, ..], "annotations": [{"id", "image_id", "category_id",
     "bbox": [left, top, width, height], "iscrowd": 0 | 1, "segmentation": .., "area": ..}, ..]}

Categories are counted without gaps in the order of their official ids (1 to 90 for 80 of them). A crowd's box is around
many things of a category, so it is among an image's categories and not among its boxes. Masks are not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, objects_under_key, read_json
from vlp.data.boxes import Corners, Size, box_corners, clip_box, looks_like_corners
from vlp.data.issues import DataError, Faults, SkippedRecords, join_first_five


@dataclass
class Instances:
    """By image id. labels: a category for each of its boxes."""

    names: tuple[str, ...] = ()
    category_indices: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    boxes: dict[int, list[Corners]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


def index_by_id(items: list[dict[str, Any]], what: str, *, place: Path, faults: Faults) -> dict[int, dict[str, Any]]:
    """what: of what the ids are, in the fault's name.  Of those with the same id the first is kept."""
    known = [item for item in items if is_id(item.get("id"))]
    if missing := len(items) - len(known):
        message = f"{place}: {missing} {what}s have no whole number as their id"
        faults.error("id is no whole number", message, count=missing)
    message = f"{place}: {what} ids that are not unique"
    known = faults.drop_duplicates(known, lambda item: item["id"], kind=f"duplicate {what} id", message=message)
    return {item["id"]: item for item in known}


def annotations_of_known_images(
    annotations: Mapping[int, dict[str, Any]], images: Container[int], what: str, *, place: Path, faults: Faults
) -> list[tuple[int, dict[str, Any]]]:
    """Each annotation with its image's id; those of other images are left out."""
    found, unknown = [], []
    for annotation in annotations.values():
        image = annotation.get("image_id")
        if isinstance(image, int) and image in images:
            found.append((image, annotation))
        else:
            unknown.append(image if isinstance(image, int) else str(image)[:80])
    if unknown:
        distinct = dict.fromkeys(unknown)
        message = f"{place}: {what} of {len(distinct)} unknown images are left out: {join_first_five(distinct)}"
        faults.warn("annotation of an unknown image", message, count=len(unknown))
    return found


def read_categories(content: object, *, place: Path, faults: Faults) -> tuple[tuple[str, ...], dict[int, int]]:
    """Their names, and the index of each official id among them."""
    categories = index_by_id(
        objects_under_key(content, "categories", location=place), "category", place=place, faults=faults
    )
    index = {category: position for position, category in enumerate(sorted(categories))}
    return tuple(str(categories[category].get("name")) for category in index), index


def read_instances(path: Path, sizes: Mapping[int, Size | None], *, boxes: bool, faults: Faults) -> Instances:
    """sizes: of all images that are known.  boxes: whether to keep them."""
    found = Instances()
    annotations: list[tuple[int, dict[str, Any]]] = []
    index: dict[int, int] = {}
    with faults.catch_errors():
        content = read_json(path, description="the file of instances")
        found.names, index = read_categories(content, place=path, faults=faults)
        every = index_by_id(
            objects_under_key(content, "annotations", location=path), "annotation", place=path, faults=faults
        )
        annotations = annotations_of_known_images(every, sizes, "instances", place=path, faults=faults)
    exchanged = 0
    with SkippedRecords(faults, path) as left_out:
        for image, annotation in annotations:
            place = f"{path}: annotation {annotation['id']}"
            with faults.catch_errors():
                category = annotation.get("category_id")
                if not isinstance(category, int) or category not in index:
                    raise DataError("unknown category", f"{place} has the unknown category {category}")
                found.category_indices[image].add(index[category])
                if boxes and not annotation.get("iscrowd"):
                    exchanged += _add_box(found, image, annotation, index[category], sizes[image], place, left_out)
    if exchanged > len(annotations) // 2:
        message = (
            f"{path}: {exchanged} of {len(annotations)} boxes lead out of their images and would not as corners: "
            f"write them as [left, top, width, height]"
        )
        faults.error("boxes given as corners", message, count=exchanged)
    return found


def _add_box(
    found: Instances,
    image: int,
    annotation: dict[str, Any],
    label: int,
    size: Size | None,
    place: str,
    left_out: SkippedRecords,
) -> bool:
    """Whether the box looks as if it were given as corners."""
    corners_or_size = annotation.get("bbox")
    if size is None or not isinstance(corners_or_size, list) or len(corners_or_size) != 4:
        lacking = "its image's width and height" if size is None else "bbox [left, top, width, height]"
        raise DataError("missing key", f"{place} lacks {lacking}")
    try:
        box = box_corners(*corners_or_size)
        found.boxes[image].append(clip_box(box, size))
    except DataError as error:
        left_out.add(error.kind, place)
        return False
    found.labels[image].append(label)
    return looks_like_corners(box, size)
