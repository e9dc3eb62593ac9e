"""What phrases of a batch name, and candidate files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlp.data.phrase_boxes import boxes_to_choose_from, named_boxes, named_mask, read_candidates
from vlp.structures import Batch, Boxes, Sample

SAMPLE = Sample(
    id=7, sample=0, image=Path("a.png"), captions=("two men", "a dog"),
    boxes=((0, 0, 4, 4), (6, 0, 9, 4), (6, 0, 9, 4)), box_captions=(0, 0, 1),
)  # fmt: skip


def _batch(*samples: Sample) -> Batch:
    ids = torch.tensor([sample.id for sample in samples])
    return Batch(id=ids, sample=ids, seed=ids, raw=samples)


def test_boxes_of_a_caption_and_of_the_image() -> None:
    batch = _batch(
        SAMPLE, Sample(id=8, sample=1, image=Path("b.png"), captions=("a", "b"), boxes=((0, 0, 1, 1), (2, 2, 3, 3)))
    )
    assert named_boxes(batch, 0, 0).tolist() == [[0, 0, 4, 4], [6, 0, 9, 4]]
    assert named_boxes(batch, 0, 1).tolist() == [[6, 0, 9, 4]]
    assert named_boxes(batch, 1, 1).tolist() == [[2, 2, 3, 3]]  # without a list, box i is of caption i
    assert boxes_to_choose_from(batch, 0, None).tolist() == [[0, 0, 4, 4], [6, 0, 9, 4]]
    of_file = {7: torch.tensor([[1.0, 1.0, 2.0, 2.0]], dtype=torch.float64)}
    assert boxes_to_choose_from(batch, 0, of_file).tolist() == [[1, 1, 2, 2]]
    assert boxes_to_choose_from(batch, 1, of_file).shape == (0, 4)


def test_masks_of_a_caption_are_joined() -> None:
    mask = torch.zeros(3, 2, 2, dtype=torch.bool)
    mask[0, 0, 0], mask[1, 1, 1], mask[2, 0, 1] = True, True, True
    boxes = Boxes(xyxy=torch.zeros(3, 4), label=torch.tensor([0, 0, 1]), mask=mask)
    found = named_mask(boxes, 0)
    assert found is not None
    assert found.tolist() == [[True, False], [False, True]]
    assert named_mask(boxes, 2) is None
    assert named_mask(Boxes(xyxy=torch.zeros(3, 4), label=torch.tensor([0, 0, 1])), 0) is None


def test_instances_and_results(tmp_path: Path) -> None:
    entries = [
        {"image_id": 7, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"image_id": 9, "bbox": [0, 0, 5, 0]},
        {"image_id": 8, "bbox": [0.5, 0, 2, 2], "score": 0.3},
    ]
    for name, content in (("results", entries), ("instances", {"images": [], "annotations": entries})):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        found = read_candidates(path)
        assert {image: boxes.tolist() for image, boxes in found.items()} == {7: [[1, 2, 4, 6]], 8: [[0.5, 0, 2.5, 2]]}


@pytest.mark.parametrize("content", [{"images": []}, [{"image_id": 1}], [{"bbox": [1, 2, 3], "image_id": 1}], [5]])
def test_a_file_of_another_form(tmp_path: Path, content: object) -> None:
    path = tmp_path / "dets.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected COCO's instances or results"):
        read_candidates(path)
