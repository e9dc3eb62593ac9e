"""Boxes of phrases in a batch of an evaluation: what a phrase names, and the boxes to choose from, all as left, top, right, bottom
in pixels of the photo, float64."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.data.annotation_files import read_json
from vlp.structures import Batch, Boxes, require
from vlp.system.errors import UserError

Candidates = dict[int, Tensor]  # by image_id: [m 4]


def named_boxes(batch: Batch, image: int, caption: int) -> Float[Tensor, "g 4"]:
    """Of what a caption of an image names, as the data have them, also where the image shows only a part of the photo."""
    sample = require(batch.raw)[image]
    boxes = sample.boxes or ()
    captions = sample.box_captions or range(len(boxes))
    named = [box for box, owner in zip(boxes, captions, strict=True) if owner == caption]
    return torch.tensor(named, dtype=torch.float64, device=batch.id.device).reshape(-1, 4)


def named_mask(boxes: Boxes, caption: int) -> Bool[Tensor, "h w"] | None:
    """The pixels, in the transformed image, of what a caption names; None where the data have no masks of it."""
    named = boxes.label == caption
    return None if boxes.mask is None or not bool(named.any()) else boxes.mask[named].any(0)


def boxes_to_choose_from(batch: Batch, image: int, candidates: Candidates | None) -> Float[Tensor, "m 4"]:
    """Those of a file, or the different boxes of all of the image's captions."""
    if candidates is not None:
        boxes = candidates.get(int(batch.id[image]), torch.zeros(0, 4, dtype=torch.float64))
    else:
        sample = None if batch.raw is None else batch.raw[image]
        listed = (() if sample is None else sample.boxes) or ()
        boxes = torch.unique(torch.tensor(listed, dtype=torch.float64).reshape(-1, 4), dim=0)
    return boxes.to(batch.id.device)


def read_candidates(path: Path) -> Candidates:
    """By image_id, in the file's order: a file of COCO's form, either instances (`instances_val.json`: true boxes) or a detector's
    results ([{"image_id", "bbox": [x, y, width, height], "score"}, ..]). Crowds and boxes without area are left out.
    Raises UserError for a file of another form."""
    content = read_json(path, description="the candidate boxes")
    entries = content.get("annotations") if isinstance(content, dict) else content
    boxes: dict[int, list[list[float]]] = defaultdict(list)
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        try:
            x, y, width, height = (float(value) for value in entry["bbox"])  # type: ignore[index]
            image, crowd = int(entry["image_id"]), bool(entry.get("iscrowd"))  # type: ignore[index, union-attr]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise UserError(
                f'{path}, [{number}]: expected COCO\'s instances or results, each {{"image_id", "bbox": [x, y, width, height]}}'
            ) from error
        if width > 0 and height > 0 and not crowd:
            boxes[image].append([x, y, x + width, y + height])
    return {image: torch.tensor(rows, dtype=torch.float64) for image, rows in boxes.items()}
