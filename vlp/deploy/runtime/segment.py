"""`Engine.segment`: the best class of each pixel of a photo, of the graph `segment` (vlp/tasks/segmentation.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

from vlp.deploy.runtime.equal_inputs import require_finite
from vlp.deploy.runtime.manifest import SegmentationSection
from vlp.deploy.runtime.photo_maps import read_at_photo, resize_maps
from vlp.system.errors import UserError

VALUES = 1 << 25  # logits at a photo's pixels that are in memory at a time
Predict = Callable[[UInt8[np.ndarray, "b 3 h w"]], Float[np.ndarray, "b c _ _"]]


def class_logits(
    predict: Predict, pixels: UInt8[np.ndarray, "b 3 h w"], task: SegmentationSection
) -> Float[np.ndarray, "b c _ _"]:
    """Of images at once, or as the mean over windows (vlp/models/dense/sliding.py)."""
    if task.window is None:
        return require_finite(predict(pixels), "logits of the classes of pixels")
    (height, width), window, stride = pixels.shape[-2:], task.window, task.stride or task.window
    summed, counts = None, np.zeros((height, width), dtype=np.float32)
    for top in _starts(height, window[0], stride[0]):
        for left in _starts(width, window[1], stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = np.stack([resize_maps(maps, window) for maps in predict(pixels[..., rows, columns])])
            if summed is None:
                summed = np.zeros((*logits.shape[:2], height, width), dtype=np.float32)
            summed[..., rows, columns] += logits
            counts[rows, columns] += 1
    assert summed is not None
    return require_finite(summed / counts, "logits of the classes of pixels")


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Along one side; the last window ends at the image's end."""
    if length < window:
        raise UserError(
            f"an image of {length} pixels is smaller than the window of {window}: export with a smaller one"
        )
    return list(dict.fromkeys([*range(0, length - window, stride), length - window]))


def classes_on_photo(
    logits: Float[np.ndarray, "c _ _"], *, frame: Float[np.ndarray, " 4"], size: tuple[int, int]
) -> Int[np.ndarray, "h w"]:
    """The index of each pixel's class.  size: height and width of the photo."""
    classes, columns = np.empty(size, dtype=np.int64), np.arange(size[1])
    step = max(1, VALUES // (len(logits) * size[1]))
    for start in range(0, size[0], step):
        rows = np.arange(start, min(start + step, size[0]))
        classes[rows] = read_at_photo(logits, frame=frame, rows=rows, columns=columns).argmax(0)
    return classes
