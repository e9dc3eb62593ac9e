"""What a detector found, in pixels of the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from vlp.models.dense.boxes import to_photo
from vlp.models.dense.detector import Proposals, best_detections
from vlp.models.dense.photo_pixels import read_at_photo
from vlp.models.dense.places import image_extent, places_on_image
from vlp.structures import Image

_CANDIDATES = 4  # times the detections that are asked for, where boxes that overlap are left out


@dataclass(frozen=True, kw_only=True)
class FoundThings:
    """In one photo, the most probable first.  boxes: left, top, right, bottom in pixels.  label: index of the class.
    masks: at the photo's size; None where the detector makes none, or no size was given."""

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n h w"] | None = None


def find_things(
    proposals: Proposals,
    image: Image,
    frame: Float[Tensor, "b 4"],
    *,
    count: int,
    photo_sizes: Sequence[tuple[int, int]] | None = None,
    threshold: float = 0.0,
    classes: Sequence[int] | None = None,
    nms: float | None = None,
) -> list[FoundThings]:
    """Of each image.  frame: see `Batch`.  photo_sizes: height and width, for masks.  threshold: below which nothing is kept.
    classes: those that may be named; None = all.  nms: IoU with a more probable box of its class above which a box is left
    out, among four times `count` of them; None = none is."""
    extent = image_extent(image, proposals.boxes)
    allowed = None if image.size is None else places_on_image(proposals.grid, extent)
    candidates = count if nms is None else _CANDIDATES * count
    best = best_detections(proposals, count=candidates, classes=classes, allowed=allowed)
    found = []
    for row in range(len(frame)):
        kept = (best.scores[row] >= threshold).nonzero()[:, 0]
        if nms is not None:  # boxes in [0, 1]: IoU does not depend on the lengths of the sides
            rows = (each[row][kept] for each in (best.boxes, best.scores, best.label))
            kept = kept[batched_nms(*rows, nms)][:count]
        corners = (best.boxes[row] / extent[row].repeat(2))[kept]
        boxes = to_photo(corners.double(), frame[row])
        masks = None
        if proposals.pixels is not None and photo_sizes is not None:
            place = best.place[row][kept]
            logits = proposals.mask_logits(torch.full_like(place, row), place)
            placed = masks_on_photo(logits, frame=frame[row], extent=extent[row], photo_size=photo_sizes[row])
            masks = placed.cpu().numpy()
        scores, label = best.scores[row][kept].double(), best.label[row][kept]
        found.append(
            FoundThings(boxes=boxes.cpu().numpy(), scores=scores.cpu().numpy(), label=label.cpu().numpy(), masks=masks)
        )
    return found


def masks_on_photo(
    logits: Float[Tensor, "p h w"],
    *,
    frame: Float[Tensor, " 4"],
    extent: Float[Tensor, " 2"],
    photo_size: tuple[int, int],
) -> Bool[Tensor, "p _ _"]:
    """Where each map, read at the photo's pixels, is above 0; never outside the image.  The others: see `read_at_photo`."""
    left, top, width, height = frame.double().tolist()
    rows, columns = photo_size
    v = (torch.arange(rows, dtype=torch.float64) + 0.5 - top) / height
    u = (torch.arange(columns, dtype=torch.float64) + 0.5 - left) / width
    inside = ((v >= 0) & (v <= 1))[:, None] & ((u >= 0) & (u <= 1))
    return (read_at_photo(logits, frame=frame, photo_size=photo_size, extent=extent) > 0) & inside.to(logits.device)
