from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from vlp.data.issues import DataError
from vlp.data.pixel_labels import read_class_map, read_label_map, read_segment_ids, view_labels
from vlp.data.view import View
from vlp.structures import Sample, Segment

VALUES = np.array([[0, 1, 2, 255], [3, 3, 0, 1]], dtype=np.uint8)
IDS = np.array([[0, 70_001, 70_001, 3_000_000], [9, 9, 9, 70_001]])
SEGMENTS = (Segment(3_000_000, 4), Segment(70_001, 2), Segment(9, 2, True), Segment(12, 1))  # the last has no pixel
WHOLE = View(left=0, top=0, width=4, height=2, size=(2, 4))


def write_ids(path: Path) -> Path:
    PIL.Image.fromarray(np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], -1).astype(np.uint8)).save(path)
    return path


def test_ids_need_all_three_colours(tmp_path: Path) -> None:
    assert read_segment_ids(write_ids(tmp_path / "1.png"), (4, 2)).tolist() == IDS.tolist()


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_label_map_is_read_as_indices_whatever_its_colours(tmp_path: Path, mode: str) -> None:
    picture = PIL.Image.fromarray(VALUES.astype(np.uint16) if mode == "I;16" else VALUES)
    if mode == "P":
        picture.putpalette([7, 7, 7] * 256)  # so that colours tell nothing
    picture.save(tmp_path / "1.png")
    assert PIL.Image.open(tmp_path / "1.png").mode == mode
    assert read_label_map(tmp_path / "1.png").tolist() == VALUES.tolist()


def test_values_become_classes_by_the_table_of_the_data(tmp_path: Path) -> None:
    PIL.Image.fromarray(VALUES).save(tmp_path / "1.png")
    table = bytes([255, 0, 1, 5] + [255] * 252)
    sample = Sample(id=1, sample=1, image=tmp_path, label_map=tmp_path / "1.png", label_classes=table)
    assert read_class_map(sample).tolist() == [[255, 0, 1, 255], [5, 5, 255, 0]]
    classes, segments = view_labels(sample, View(left=0, top=0, width=4, height=2, size=(4, 8), mirrored=True), (4, 2))
    assert segments is None
    expected = torch.tensor([[255, 0, 1, 255], [5, 5, 255, 0]]).repeat_interleave(2, 0).repeat_interleave(2, 1).flip(1)
    assert torch.equal(classes, expected)


def test_files_that_are_no_label_maps_are_refused(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (4, 2)).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match="not those of colours"):
        read_label_map(tmp_path / "colours.png")
    PIL.Image.fromarray(np.full((2, 4), 300, dtype=np.uint16)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="the value 300"):
        read_label_map(tmp_path / "large.png")
    PIL.Image.fromarray(VALUES).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="4 × 2 pixels, where the photo has 5 × 2"):
        read_label_map(tmp_path / "grey.png", (5, 2))


def test_a_view_has_its_visible_segments_without_crowds(tmp_path: Path) -> None:
    sample = Sample(id=1, sample=1, image=tmp_path, panoptic=write_ids(tmp_path / "1.png"), segments=SEGMENTS)
    classes, segments = view_labels(sample, WHOLE, (4, 2))
    assert classes.tolist() == [[255, 2, 2, 4], [2, 2, 2, 2]]  # a crowd has its class, too
    assert segments is not None
    assert segments.label.tolist() == [4, 2]
    assert segments.index.tolist() == [[-1, 1, 1, 0], [-1, -1, -1, 1]]
    left = View(left=0, top=0, width=2, height=2, size=(2, 2))
    classes, segments = view_labels(sample, left, (4, 2))
    assert segments is not None
    assert segments.label.tolist() == [2]
    assert segments.index.tolist() == [[-1, 0], [-1, -1]]
    _, segments = view_labels(sample, View(left=0, top=1, width=2, height=1, size=(1, 2)), (4, 2))
    assert segments is not None
    assert len(segments.label) == 0
