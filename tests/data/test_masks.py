"""Masks in COCO's three forms, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlp.data.issues import DataError
from vlp.data.masks import check_mask, decode_mask

tools: Any = pytest.importorskip("pycocotools.mask")


def drawn(height: int, width: int, seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    draws = np.random.default_rng(seed)
    centre, radius = draws.uniform(0.3, 0.7, 2) * (height, width), draws.uniform(2, min(height, width) / 2)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def runs_of(mask: np.ndarray) -> list[int]:
    counts, last = [0], False
    for value in mask.ravel(order="F").tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_runs_as_numbers_as_text_and_as_bytes_give_the_mask_that_was_written(seed: int) -> None:
    mask = drawn(11 + seed, 17, seed)
    size = list(mask.shape)
    compressed = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    for written in (
        {"counts": runs_of(mask), "size": size},
        {"counts": compressed["counts"].decode(), "size": size},
        {"counts": compressed["counts"], "size": size},
    ):
        np.testing.assert_array_equal(decode_mask(written, height=size[0], width=size[1]), mask)


def test_polygons_are_filled_as_pycocotools_fills_them_and_parts_are_joined() -> None:
    parts = [[2, 2, 9, 2, 9, 8, 2, 8], [12.5, 3.2, 18, 9, 11, 11]]
    found = decode_mask(parts, height=14, width=20)
    separate = [tools.decode(run) for run in tools.frPyObjects(parts, 14, 20)]
    np.testing.assert_array_equal(found, (separate[0] | separate[1]).astype(bool))
    assert found[5, 5]
    assert not found[1, 1]


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ({"counts": [1, 2], "size": [2, 2]}, "cannot be decoded"),
        ({"counts": [5, -1], "size": [2, 2]}, "cannot be decoded"),
        ({"counts": [4], "size": [4, 1]}, "of another size"),
        ({"size": [2, 2]}, "of an unknown form"),
        ([[1, 2, 3, 4]], "of an unknown form"),
        ([[1, 2, 3, 4, 5, float("nan")]], "of an unknown form"),
        ([], "of an unknown form"),
        ("x", "of an unknown form"),
    ],
)
def test_other_forms_are_refused(mask: Any, kind: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_mask(mask, height=2, width=2)
    assert kind in caught.value.kind
    if kind != "cannot be decoded":
        with pytest.raises(DataError):
            check_mask(mask, height=2, width=2)
