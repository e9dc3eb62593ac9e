"""From queried segments to one segment for each pixel of a photo (Cheng et al., arXiv:2112.01527; facebookresearch/Mask2Former
mask2former/maskformer_model.py, `panoptic_inference`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Float, Int
from torch import Tensor

from vlp.models.dense.photo_pixels import read_at_photo
from vlp.structures import Segment


def panoptic_map(
    classes: Float[Tensor, "q c"],
    masks: Float[Tensor, "q _ _"],
    *,
    things: Sequence[bool],
    frame: Float[Tensor, " 4"],
    photo_size: tuple[int, int],
    extent: Float[Tensor, " 2"] | None = None,
    threshold: float = 0.8,
    overlap: float = 0.8,
) -> tuple[Int[np.ndarray, "h w"], list[Segment]]:
    """The id of each pixel's segment, 0 = none, and the segments, from 1 on.

    classes, masks: logits of one image's queries; the last class is "no object".  things: of the classes; segments of one class of
    stuff are one.  frame, photo_size, extent: see `read_at_photo`.  threshold: of a query's probability.  overlap: a query counts
    if it is the best one on this share of its own mask.
    """
    probability, label = classes.softmax(-1).max(-1)
    kept = (label != classes.shape[-1] - 1) & (probability > threshold)
    ids = np.zeros(photo_size, dtype=np.int32)
    if not bool(kept.any()):
        return ids, []
    shown = read_at_photo(masks[kept], frame=frame, photo_size=photo_size, extent=extent).sigmoid()
    best = (probability[kept][:, None, None] * shown).argmax(0)
    segments: list[Segment] = []
    stuff: dict[int, int] = {}
    for query, (number, mask) in enumerate(zip(label[kept].tolist(), shown >= 0.5, strict=True)):
        visible = (best == query) & mask
        area, full, count = int((best == query).sum()), int(mask.sum()), int(visible.sum())
        if not count or area < overlap * full:
            continue
        if not things[number] and number in stuff:
            ids[visible.cpu().numpy()] = stuff[number]
            continue
        segments.append(Segment(id=len(segments) + 1, label=number))
        ids[visible.cpu().numpy()] = segments[-1].id
        if not things[number]:
            stuff[number] = segments[-1].id
    return ids, segments


def write_panoptic_png(path: Path, ids: Int[np.ndarray, "h w"]) -> None:
    """An id as red + 256 · green + 256² · blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)).save(path)


def panoptic_annotation(
    image: int, file_name: str, segments: Sequence[Segment], category_ids: Sequence[int]
) -> dict[str, object]:
    """One entry of COCO's panoptic results.  category_ids: the official id of each class."""
    infos = [{"id": segment.id, "category_id": category_ids[segment.label]} for segment in segments]
    return {"image_id": image, "file_name": file_name, "segments_info": infos}


def write_panoptic_results(path: Path, annotations: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"annotations": list(annotations)}))
