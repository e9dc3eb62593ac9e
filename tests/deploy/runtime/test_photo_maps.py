"""Maps, boxes and suppression in numpy against vlp.models.dense, vlp.explanations and torchvision."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

from vlp.deploy.runtime.detect import masks_on_photo
from vlp.deploy.runtime.photo_maps import (
    box_around_peak,
    keep_separate,
    read_at_photo,
    resize_maps,
    to_corners,
    to_photo,
)
from vlp.explanations import boxes as explained
from vlp.models.dense import boxes as dense
from vlp.models.dense import on_photo, photo_pixels

DRAWS = np.random.default_rng(0)
FRAMES = [(0.0, 0.0, 31.0, 23.0), (-4.5, 2.25, 40.0, 18.5), (5.0, -3.0, 11.0, 35.0)]


def test_maps_at_the_pixels_of_a_photo() -> None:
    maps = DRAWS.normal(size=(3, 7, 5)).astype(np.float32)
    for frame in map(np.array, FRAMES):
        wanted = photo_pixels.read_at_photo(torch.from_numpy(maps), frame=torch.from_numpy(frame), photo_size=(23, 31))
        found = read_at_photo(maps, frame=frame, rows=np.arange(23), columns=np.arange(31))
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)
        part = read_at_photo(maps, frame=frame, rows=np.arange(4, 9), columns=np.arange(31))
        np.testing.assert_array_equal(part, found[:, 4:9])
        masks = on_photo.masks_on_photo(
            torch.from_numpy(maps), frame=torch.from_numpy(frame), extent=torch.ones(2), photo_size=(23, 31)
        )
        assert (masks_on_photo(maps, frame=frame, size=(23, 31)) == masks.numpy()).mean() > 0.999
    for size in ((13, 4), (7, 5), (1, 1), (20, 20)):
        wanted = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")[0]
        np.testing.assert_allclose(resize_maps(maps, size), wanted.numpy(), atol=2e-5)


def test_boxes_in_pixels_of_a_photo() -> None:
    boxes = DRAWS.uniform(0.1, 0.9, (6, 4)).astype(np.float32)
    np.testing.assert_array_equal(to_corners(boxes), dense.to_corners(torch.from_numpy(boxes)).numpy())
    for frame in map(np.array, FRAMES):
        wanted = dense.to_photo(torch.from_numpy(to_corners(boxes)).double(), torch.from_numpy(frame))
        np.testing.assert_allclose(to_photo(to_corners(boxes), frame), wanted.numpy(), atol=1e-9)


def test_suppression_is_torchvisions() -> None:
    kept = set()
    for seed in range(30):
        draws = np.random.default_rng(seed)
        corners = to_corners(draws.uniform(0.2, 0.8, (40, 4)).astype(np.float32))
        scores, labels = draws.uniform(size=40).astype(np.float32), draws.integers(0, 3, 40)
        for threshold in (0.0, 0.3, 0.6, 1.0):
            wanted = batched_nms(*map(torch.from_numpy, (corners, scores, labels)), threshold).numpy()
            np.testing.assert_array_equal(keep_separate(corners, scores, labels, threshold=threshold), wanted)
            kept.add(len(wanted))
    assert len(kept) > 10
    none = keep_separate(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), threshold=0.5)
    assert none.shape == (0,)


def test_the_region_around_a_peak() -> None:
    maps = [DRAWS.normal(size=(6, 9)).astype(np.float32) for _ in range(30)]
    maps += [np.zeros((2, 3), np.float32), -np.ones((2, 3), np.float32), np.ones((4, 5), np.float32)]
    for heat in maps:
        wanted = explained.box_around_peak(torch.from_numpy(heat)).numpy()
        np.testing.assert_allclose(box_around_peak(heat), wanted, atol=1e-6)
