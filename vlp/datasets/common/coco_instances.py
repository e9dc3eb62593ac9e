"""COCO's instances file: which categories an image shows, and the boxes of its objects.

    {"images": .., "categories": [{"id": 1, "name": "person"}, ..], "annotations": [{"id", "image_id", "category_id",
     "bbox": [left, top, width, height], "iscrowd": 0 | 1, "segmentation": .., "area": ..}, ..]}

Categories are counted without gaps in the order of their official ids (1 to 90 for 80 of them). A crowd's box is around
many things of a category and stays among an image's boxes, marked. Masks are kept as they are written and decoded when a
sample is loaded. Boxes and masks are of the photo as it is stored, whatever its EXIF orientation says. Areas are read by
the evaluation alone, from the same file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import is_id, objects_under_key, read_json
from vlp.data.boxes import BOX_FAULTS, Corners, Size, box_corners, clip_box, looks_like_corners
from vlp.data.issues import DataError, Faults, SkippedRecords, join_first_five
from vlp.data.masks import check_mask
from vlp.system.errors import UserError


@dataclass
class Things:
    """Those of an image: the corners, the category, and the mask of each (none where masks were not asked for), and whether
    it is a crowd."""

    boxes: list[Corners] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowds: list[bool] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    def sample_fields(self) -> dict[str, Any]:
        """Those of a Sample."""
        return {
            "boxes": tuple(self.boxes),
            "box_labels": tuple(self.labels),
            "box_crowds": tuple(self.crowds),
            "box_masks": tuple(self.masks),
            "as_stored": True,
        }


@dataclass
class Instances:
    """names, ids: of the categories, ids as the file has them.  category_indices, things: by image id."""

    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    category_indices: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    things: dict[int, Things] = field(default_factory=lambda: defaultdict(Things))

    @cached_property
    def positions(self) -> dict[int, int]:
        """Of each official id, the index of its category."""
        return {category: index for index, category in enumerate(self.ids)}


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


def list_images(content: object, *, place: Path, faults: Faults) -> dict[int, dict[str, Any]]:
    """The records of a file's images by their ids."""
    return index_by_id(objects_under_key(content, "images", location=place), "image", place=place, faults=faults)


def choose_categories(
    names: tuple[str, ...], index: dict[int, int], chosen: Collection[str] | None, *, place: object
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Those of `chosen` alone, counted without gaps; None = all.  Raises UserError for one that the file lacks."""
    if chosen is None:
        return names, index
    if missing := [name for name in chosen if name not in names]:
        raise UserError(f"{place} has no category {join_first_five(missing)}: correct data.categories or data.novel")
    kept = [number for number, position in index.items() if names[position] in set(chosen)]
    return tuple(names[index[number]] for number in kept), {number: position for position, number in enumerate(kept)}


def read_instances(
    path: Path,
    sizes: Mapping[int, Size | None],
    *,
    boxes: bool,
    masks: bool = False,
    categories: Collection[str] | None = None,
    hidden: Collection[str] = (),
    faults: Faults,
) -> Instances:
    """sizes: of all images that are known.  boxes, masks: whether to keep them.  categories: names of those to read; None =
    all.  hidden: names of those whose annotations are passed over, though they are among the categories."""
    content = None
    with faults.catch_errors():
        content = read_json(path, description="the file of instances")
    if content is None:
        return Instances()
    return parse_instances(
        content, path, sizes, boxes=boxes, masks=masks, categories=categories, hidden=hidden, faults=faults
    )


def parse_instances(
    content: object,
    path: Path,
    sizes: Mapping[int, Size | None],
    *,
    boxes: bool,
    masks: bool = False,
    categories: Collection[str] | None = None,
    hidden: Collection[str] = (),
    faults: Faults,
) -> Instances:
    """The same of the content of a file."""
    found = Instances()
    annotations: list[tuple[int, dict[str, Any]]] = []
    official: dict[int, int] = {}
    index: dict[int, int] = {}
    with faults.catch_errors():
        names, official = read_categories(content, place=path, faults=faults)
        found.names, index = choose_categories(names, official, categories, place=path)
        choose_categories(names, official, hidden, place=path)
        found.ids = tuple(index)
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
                if not isinstance(category, int) or category not in official:
                    raise DataError("unknown category", f"{place} has the unknown category {category}")
                if category not in index or found.names[index[category]] in hidden:
                    continue
                found.category_indices[image].add(index[category])
                if boxes:
                    exchanged += _add_thing(
                        found.things[image], annotation, index[category], sizes[image], place, left_out, masks=masks
                    )
    if exchanged > len(annotations) // 2:
        message = (
            f"{path}: {exchanged} of {len(annotations)} boxes lead out of their images and would not as corners: "
            f"write them as [left, top, width, height]"
        )
        faults.error("boxes given as corners", message, count=exchanged)
    return found


def _add_thing(
    things: Things,
    annotation: dict[str, Any],
    label: int,
    size: Size | None,
    place: str,
    left_out: SkippedRecords,
    *,
    masks: bool,
) -> bool:
    """Whether the box looks as if it were given as corners."""
    corners_or_size = annotation.get("bbox")
    if size is None or not isinstance(corners_or_size, list) or len(corners_or_size) != 4:
        lacking = "its image's width and height" if size is None else "bbox [left, top, width, height]"
        raise DataError("missing key", f"{place} lacks {lacking}")
    mask = annotation.get("segmentation")
    try:
        box = box_corners(*corners_or_size)
        clipped = clip_box(box, size)
        if masks:
            check_mask(mask, height=size[1], width=size[0])
    except DataError as error:
        if error.kind not in BOX_FAULTS:
            raise DataError(error.kind, f"{place}: {error}") from error
        left_out.add(error.kind, place)
        return False
    things.boxes.append(clipped)
    things.labels.append(label)
    things.crowds.append(bool(annotation.get("iscrowd")))
    if masks:
        things.masks.append(mask)
    return looks_like_corners(box, size)
