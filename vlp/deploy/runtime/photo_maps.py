"""Maps over an image, read at the pixels of the photo that it shows, and boxes in them: vlp/models/dense in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def read_at_photo(
    maps: Float[np.ndarray, "c _ _"], *, frame: Float[np.ndarray, " 4"], rows: Int[np.ndarray, " h"], columns: Int[np.ndarray, " w"]
) -> Float[np.ndarray, "c h w"]:  # fmt: skip
    """Bilinearly at the centres of some rows and columns of the photo's pixels; what the image leaves out gets the values of its
    nearest edge.  frame: left, top, width and height of what the image shows (`vlp.models.dense.photo_pixels.read_at_photo`)."""
    left, top, width, height = frame
    above, below, y = _cells((rows + 0.5 - top) / height, maps.shape[1])
    before, after, x = _cells((columns + 0.5 - left) / width, maps.shape[2])
    maps = maps[:, above] * (1 - y)[:, None] + maps[:, below] * y[:, None]
    return maps[..., before] * (1 - x) + maps[..., after] * x


def _cells(
    position: Float[np.ndarray, " n"], count: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The cells on both sides of positions in [0, 1], and the share of the second one."""
    cell = (position * count - 0.5).clip(0, count - 1)
    first = np.floor(cell).astype(np.int64)
    return first, np.minimum(first + 1, count - 1), (cell - first).astype(np.float32)


def resize_maps(maps: Float[np.ndarray, "c _ _"], size: tuple[int, int]) -> Float[np.ndarray, "c h w"]:
    """Bilinearly, as torch's `interpolate` without aligned corners."""
    frame = np.array([0.0, 0.0, size[1], size[0]])
    return read_at_photo(maps, frame=frame, rows=np.arange(size[0]), columns=np.arange(size[1]))


def inside_frame(frame: Float[np.ndarray, " 4"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a photo the image shows.  size: its height and width."""
    left, top, width, height = frame
    v, u = ((np.arange(size[0]) + 0.5 - top) / height, (np.arange(size[1]) + 0.5 - left) / width)
    return ((v >= 0) & (v <= 1))[:, None] & ((u >= 0) & (u <= 1))


def to_corners(boxes: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 4"]:
    """Centre, width, height → left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], -1)


def to_photo(corners: Float[np.ndarray, "m 4"], frame: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "m 4"]:
    """From [0, 1] of the image to pixels of the upright photo."""
    return corners.astype(np.float64) * np.tile(frame[2:], 2) + np.tile(frame[:2], 2)


def keep_separate(
    boxes: Float[np.ndarray, "m 4"], scores: Float[np.ndarray, " m"], labels: Int[np.ndarray, " m"], *, threshold: float
) -> Int[np.ndarray, " k"]:
    """Positions, the most probable first, of the boxes without a more probable one of their class that they overlap by an IoU above
    the threshold (non-maximum suppression)."""
    kept: list[int] = []
    for position in np.argsort(-scores, kind="stable").tolist():
        rivals = [other for other in kept if labels[other] == labels[position]]
        if not rivals or bool((_iou(boxes[position], boxes[rivals]) <= threshold).all()):
            kept.append(position)
    return np.array(kept, dtype=np.int64)


def _iou(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, " k"]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(1)
    area, areas = (each[..., 2:] - each[..., :2] for each in (box, others))
    return common / np.maximum(area.prod() + areas.prod(1) - common, np.finfo(np.float32).tiny)


def box_around_peak(heat: Float[np.ndarray, "rows columns"], *, threshold: float = 0.5) -> Float[np.ndarray, " 4"]:
    """Around the connected cells (of 8 neighbours) of at least `threshold` times the maximum that contain it; left, top, right,
    bottom in [0, 1]. Without any heat, the entire image. As `vlp.explanations.boxes.box_around_peak`."""
    peak = heat.max()
    if not peak > 0:
        return np.array([0.0, 0.0, 1.0, 1.0])
    warm, region = heat >= threshold * peak, np.zeros(heat.shape, dtype=bool)
    region.reshape(-1)[heat.argmax()] = True
    while not np.array_equal(grown := _grow(region) & warm, region):
        region = grown
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    edges: Sequence[int] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return np.array(edges) / np.tile([heat.shape[1], heat.shape[0]], 2)


def _grow(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(region, 1)
    wide = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return wide[:-2] | wide[1:-1] | wide[2:]
