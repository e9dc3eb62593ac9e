"""Any data set of vlp as Detectron2's dataset dicts and metadata (docs/tutorials/datasets.md there), without importing it.

`vlp.integrations.detectron2.register` puts them into its catalogs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL.Image

from vlp.data.datamodule import DataModule
from vlp.data.images import exif_orientation
from vlp.structures import Member, Sample
from vlp.system.errors import UserError

XYWH_ABS = 1  # of its BoxMode: left, top, width and height in pixels
_TRANSPOSED = 5  # EXIF's orientations from here on exchange width and height


def dataset_dicts(data: DataModule, split: str) -> list[dict[str, Any]]:
    """One dict for each photo with boxes: file_name, height and width of the upright photo (Detectron2 turns photos as EXIF says),
    image_id, annotations with bbox, bbox_mode, category_id (position in the class names), iscrowd and, where the data have
    masks, segmentation.

    Boxes of phrases, which have no class, are of category 0.  Raises UserError for data without boxes, and for photos within
    tar files.
    """
    return [_dataset_dict(sample, str(data.name)) for sample in _samples_with_boxes(data, split)]


def metadata(data: DataModule, split: str) -> dict[str, Any]:
    """thing_classes, and where the data have official ids of categories and an official file, those as its COCOEvaluator takes
    them.  Raises UserError for data without boxes."""
    samples = _samples_with_boxes(data, split)
    names = data.class_names if any(sample.box_labels for sample in samples) else None
    values: dict[str, Any] = {"thing_classes": list(names or ("thing",)), "evaluator_type": "coco"}
    ids = getattr(data, "category_ids", None)
    if ids and names:
        values["thing_dataset_id_to_contiguous_id"] = {official: index for index, official in enumerate(ids)}
    return values


def _samples_with_boxes(data: DataModule, split: str) -> list[Sample]:
    samples = [sample for sample in data.split(split) if sample.boxes is not None]
    if not samples:
        raise UserError(f"{data.name} has no boxes in {split}: choose data with boxes, such as COCO(boxes=True, …)")
    return samples


def _dataset_dict(sample: Sample, name: str) -> dict[str, Any]:
    if isinstance(sample.image, Member):
        raise UserError(
            f"{name} is packed in tar files, and Detectron2 opens photos by their path: use the unpacked folder"
        )
    with PIL.Image.open(sample.image) as image:
        width, height = image.size
        if exif_orientation(image) >= _TRANSPOSED:
            width, height = height, width
    return {
        "file_name": str(sample.image),
        "image_id": sample.id,
        "height": height,
        "width": width,
        "annotations": [_annotation(sample, index) for index in range(len(sample.boxes or ()))],
    }


def _annotation(sample: Sample, index: int) -> dict[str, Any]:
    assert sample.boxes is not None
    left, top, right, bottom = sample.boxes[index]
    annotation: dict[str, Any] = {
        "bbox": [left, top, right - left, bottom - top],
        "bbox_mode": XYWH_ABS,
        "category_id": sample.box_labels[index] if sample.box_labels else 0,
        "iscrowd": int(bool(sample.box_crowds and sample.box_crowds[index])),
    }
    if sample.box_masks and sample.box_masks[index] is not None:
        annotation["segmentation"] = _segmentation(sample.box_masks[index])
    return annotation


def _segmentation(mask: Any) -> Any:
    """Polygons as they are; run lengths as pycocotools compresses them, which is what Detectron2 decodes."""
    if isinstance(mask, Mapping) and isinstance(mask["counts"], (list, tuple)):
        from pycocotools import mask as run_lengths

        return run_lengths.frPyObjects({"size": list(mask["size"]), "counts": list(mask["counts"])}, *mask["size"])
    return dict(mask) if isinstance(mask, Mapping) else [list(polygon) for polygon in mask]
