from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vlp.data.pixel_labels import read_segment_ids
from vlp.models.dense.panoptic import panoptic_annotation, panoptic_map, write_panoptic_png
from vlp.structures import Segment

FRAME = torch.tensor([0.0, 0.0, 4.0, 4.0])


def logits(
    labels: list[int], regions: list[tuple[slice, slice]], certain: list[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    classes, masks = torch.zeros(len(labels), 4), torch.full((len(labels), 4, 4), -9.0)
    for query, (label, (rows, columns), value) in enumerate(zip(labels, regions, certain, strict=True)):
        classes[query, label] = value
        masks[query, rows, columns] = 9
    return classes, masks


def read(
    labels: list[int], regions: list[tuple[slice, slice]], certain: list[float]
) -> tuple[np.ndarray, list[Segment]]:
    """Classes 0 and 1 are things, 2 is stuff, 3 no object."""
    return panoptic_map(*logits(labels, regions, certain), things=(True, True, False), frame=FRAME, photo_size=(4, 4))


TOP, BOTTOM, LEFT, RIGHT, ALL = slice(0, 2), slice(2, 4), slice(0, 2), slice(2, 4), slice(0, 4)


def test_two_things_of_a_class_are_two_and_stuff_is_one() -> None:
    ids, segments = read([0, 0, 2, 2], [(TOP, LEFT), (TOP, RIGHT), (BOTTOM, LEFT), (BOTTOM, RIGHT)], [9, 9, 9, 9])
    assert ids.tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 3, 3]] * 2
    assert segments == [Segment(1, 0), Segment(2, 0), Segment(3, 2)]


def test_unsure_queries_and_no_object_are_left_out() -> None:
    ids, segments = read([0, 1, 3], [(TOP, ALL), (BOTTOM, ALL), (BOTTOM, ALL)], [9, 1, 9])
    assert ids.tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
    assert segments == [Segment(1, 0)]
    assert read([3], [(ALL, ALL)], [9])[1] == []


def test_a_query_that_is_mostly_hidden_by_a_surer_one_is_left_out() -> None:
    ids, segments = read([0, 1], [(ALL, ALL), (ALL, LEFT)], [12, 3])
    assert segments == [Segment(1, 0)]
    assert ids.tolist() == [[1] * 4] * 4


def test_ids_are_written_as_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1], [70_001, 16_777_215]], dtype=np.int32)
    write_panoptic_png(tmp_path / "a/1.png", ids)
    assert read_segment_ids(tmp_path / "a/1.png").tolist() == ids.tolist()
    entry = panoptic_annotation(7, "1.png", [Segment(3, 1)], (10, 92))
    assert entry == {"image_id": 7, "file_name": "1.png", "segments_info": [{"id": 3, "category_id": 92}]}
