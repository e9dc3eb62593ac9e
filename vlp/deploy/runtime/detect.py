"""`Engine.detect`: the most probable boxes of the graph `detect`, in pixels of the photos (vlp/models/dense/on_photo.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vlp.deploy.runtime.equal_inputs import require_finite
from vlp.deploy.runtime.generate import best_of
from vlp.deploy.runtime.manifest import DetectionSection
from vlp.deploy.runtime.photo_maps import inside_frame, keep_separate, read_at_photo, to_corners, to_photo

_CANDIDATES = 4  # times the detections that are asked for, where boxes that overlap are left out


def find_things(
    outputs: dict[str, np.ndarray], row: int, task: DetectionSection, *, names: tuple[str, ...], threshold: float,
    frame: Float[np.ndarray, " 4"], size: tuple[int, int],
) -> list[dict[str, Any]]:  # fmt: skip
    """In one photo.  outputs: of the graph, for a batch; row: of the photo in it.  size: its height and width."""
    logits = require_finite(outputs["logits"][row], "scores of boxes").astype(np.float64)
    corners = to_corners(require_finite(outputs["boxes"][row], "boxes"))
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    best, index = best_of(scores.reshape(1, -1), task.detections * (1 if task.nms is None else _CANDIDATES))
    kept = best[0] >= threshold
    best, (place, label) = best[0][kept], np.divmod(index[0][kept], scores.shape[1])
    if task.nms is not None:
        separate = keep_separate(corners[place], best, label, threshold=task.nms)[: task.detections]
        best, place, label = best[separate], place[separate], label[separate]
    boxes = to_photo(corners[place], frame)
    rows = zip(boxes.tolist(), label.tolist(), best.astype(np.float64).tolist(), strict=True)
    things: list[dict[str, Any]] = [{"box": box, "label": names[each], "score": score} for box, each, score in rows]
    if "mask_embeds" in outputs:
        embeds, pixels = outputs["mask_embeds"][row], outputs["mask_pixels"][row]
        masks = masks_on_photo(np.tensordot(embeds[place], pixels, 1), frame=frame, size=size)
        things = [thing | {"mask": mask} for thing, mask in zip(things, masks, strict=True)]
    return things


def masks_on_photo(
    logits: Float[np.ndarray, "p _ _"], *, frame: Float[np.ndarray, " 4"], size: tuple[int, int]
) -> Bool[np.ndarray, "p h w"]:
    """Where each map, read at the photo's pixels, is above 0; never outside the image."""
    rows: Int[np.ndarray, " h"] = np.arange(size[0])
    masks = np.empty((len(logits), *size), dtype=bool)
    for index in range(len(logits)):  # one at a time: photos have millions of pixels
        masks[index] = (
            read_at_photo(logits[index : index + 1], frame=frame, rows=rows, columns=np.arange(size[1]))[0] > 0
        )
    return masks & inside_frame(frame, size)
