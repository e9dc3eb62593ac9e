"""Boxes, masks and segments of generated scenes, from the files of the parts that a split is made of (train and restval)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlp.data.annotation_files import read_json, require_path
from vlp.data.boxes import photo_size
from vlp.data.issues import DataError, Faults
from vlp.datasets.common.coco_instances import Instances, list_images, parse_instances
from vlp.datasets.common.coco_panoptic import PanopticAnnotations, read_panoptic
from vlp.scenes.grammar import SYNONYMS
from vlp.structures import Sample

NAMES = {"words": "annotations", "synonyms": "annotations", "pairs": "pairs"}  # and the folder of the instances


def read_scene_instances(root: Path, parts: Sequence[str], *, names: str, masks: bool, faults: Faults) -> Instances:
    """names: of the classes, see `other_names`; "pairs" = a class for each pair of a colour and a shape."""
    joined = Instances()
    for part in parts:
        path, content = root / NAMES[names] / f"instances_{part}.json", None
        with faults.catch_errors():
            content = read_json(path, description="the instances of scenes")
        if content is not None:
            images = list_images(content, place=path, faults=faults)
            sizes = {image: photo_size(record) for image, record in images.items()}
            read = parse_instances(content, path, sizes, boxes=True, masks=masks, faults=faults)
            joined.category_indices |= read.category_indices
            joined.things |= read.things
            joined.names, joined.ids = other_names(read.names, names), read.ids
    return joined


def read_scene_panoptic(
    root: Path, parts: Sequence[str], images: Sequence[int], *, names: str, faults: Faults
) -> PanopticAnnotations:
    """images: ids of all that are known.  files: in the folder of annotations."""
    joined = PanopticAnnotations()
    for part in parts:
        read = read_panoptic(root / "annotations" / f"panoptic_{part}.json", set(images), faults=faults)
        joined.names, joined.ids, joined.things = other_names(read.names, names), read.ids, read.things
        joined.files |= {image: f"panoptic_{part}/{file}" for image, file in read.files.items()}
        joined.segments |= read.segments
    return joined


def with_segments(sample: Sample, panoptic: PanopticAnnotations, root: Path) -> Sample:
    """Raises DataError where the files lack its segments."""
    if sample.id not in panoptic.files:
        raise DataError("image without segmentation", f"{sample.image} has no panoptic segmentation")
    picture = root / "annotations" / str(panoptic.files[sample.id])
    require_path(picture, description=f"the segmentation of {sample.image}")
    return replace(sample, panoptic=picture, segments=panoptic.segments[sample.id], as_stored=True)


def other_names(names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Of classes.  kind: "synonyms" = "disc" for circle, "box" for square, "hoop" for ring and "moon" for crescent, other classes
    as they are; else the names themselves."""
    return tuple(SYNONYMS.get(name, (name,))[-1] if kind == "synonyms" else name for name in names)
