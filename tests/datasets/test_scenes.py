from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.ops import masks_to_boxes

from vlp.data.padded_transforms import Shift
from vlp.data.transforms import EvalTransform
from vlp.datasets.scenes import SceneReferences, Scenes
from vlp.scenes.scene import SHAPES
from vlp.system.errors import UserError

COUNTS = {"train": 6, "val": 4, "test": 3}


def scenes(root: Path, loading: dict[str, Any], **changed: Any) -> Scenes:
    return Scenes(root=root, **{"images": COUNTS, "size": 32, **loading, **changed})


def test_scenes_are_drawn_once_and_read_with_their_choices(tmp_path: Path, loading: dict[str, Any]) -> None:
    data = scenes(tmp_path, loading, seed=1)
    data.prepare_data()
    stamp = (data.root / "manifest.json").stat().st_mtime_ns
    again = scenes(tmp_path, loading, seed=2)
    again.prepare_data()
    assert again.root == data.root
    assert (data.root / "manifest.json").stat().st_mtime_ns == stamp
    data.setup()
    assert [len(data.split(split)) for split in COUNTS] == list(COUNTS.values())
    (batch,) = data.test_dataloader()
    assert batch.caption is not None
    assert batch.caption.ids.shape[:2] == (3, 5)
    assert batch.choices is not None
    assert batch.choices.ids.shape[:2] == (3, 2)
    assert batch.label.tolist() == [0, 0, 0]
    for sample in data.split("val"):
        assert sample.choices[0] in sample.captions
        assert sample.choices[1] not in sample.captions
    first = next(iter(data.train_dataloader()))
    assert first.choices is None
    assert first.label is None


def test_boxes_and_masks_of_scenes_are_those_of_their_instances_file(tmp_path: Path, loading: dict[str, Any]) -> None:
    loading["transform"] = {"train": Shift(image_size=32, shift=3), "eval": EvalTransform(image_size=32)}
    data = scenes(tmp_path, loading, boxes=True, masks=True)
    data.prepare_data()
    data.setup()
    assert data.class_names == tuple(SHAPES)
    assert data.category_ids == tuple(range(1, 10))
    content = json.loads(data.ground_truth("test").read_text())
    by_image = {
        image["id"]: [a for a in content["annotations"] if a["image_id"] == image["id"]] for image in content["images"]
    }
    (batch,) = data.test_dataloader()
    assert batch.frame.tolist() == [[0, 0, 32, 32]] * 3
    assert batch.categories is not None
    assert batch.label.tolist() == [0, 0, 0]
    for image, boxes, categories in zip(batch.id.tolist(), batch.boxes, batch.categories, strict=True):
        annotations = by_image[image]
        expected = torch.tensor([a["bbox"] for a in annotations])
        torch.testing.assert_close(boxes.xyxy * 32, torch.cat([expected[:, :2], expected[:, :2] + expected[:, 2:]], 1))
        assert boxes.label.tolist() == [a["category_id"] - 1 for a in annotations]
        assert boxes.mask.sum((1, 2)).tolist() == [a["area"] for a in annotations]
        assert categories.nonzero()[:, 0].tolist() == sorted(set(boxes.label.tolist()))
    first = next(iter(data.train_dataloader()))
    assert first.caption is not None
    for boxes in first.boxes:  # a shift cuts boxes and masks alike
        found = masks_to_boxes(boxes.mask) + torch.tensor([0, 0, 1, 1])
        assert (found - boxes.xyxy * 32).abs().max() <= 1
    with pytest.raises(UserError, match=r"data\.boxes=true"):
        scenes(tmp_path, loading, masks=True)


def test_boxes_change_nothing_else_of_a_batch(tmp_path: Path, loading: dict[str, Any]) -> None:
    plain, boxed = (scenes(tmp_path, loading, boxes=boxes) for boxes in (False, True))
    plain.prepare_data()
    for data in (plain, boxed):
        data.setup()
    assert plain.class_names is None
    for one, other in zip(plain.train_dataloader(), boxed.train_dataloader(), strict=True):
        assert torch.equal(one.image.pixels, other.image.pixels)
        assert torch.equal(one.caption.ids, other.caption.ids)
        assert torch.equal(one.frame, other.frame)
        assert one.boxes is one.categories is None


@pytest.mark.parametrize("changed", [{"size": 40}, {"scene_seed": 1}, {"images": {**COUNTS, "test": 2}}])
def test_other_scenes_have_a_folder_of_their_own(
    tmp_path: Path, loading: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert scenes(tmp_path, loading, **changed).root != scenes(tmp_path, loading).root


@pytest.mark.parametrize("crowded", [False, True])
def test_references_are_read_from_refcoco_s_files_with_their_boxes(
    tmp_path: Path, loading: dict[str, Any], crowded: bool
) -> None:
    size = 96 if crowded else 32
    loading["transform"] = {kind: EvalTransform(image_size=size) for kind in ("train", "eval")}
    drawn = {"images": {"train": 6, "restval": 2, "val": 4, "test": 12}, "size": size, "crowded": crowded}
    shapes, boxes = {}, {}
    scenes(tmp_path, loading, **drawn).prepare_data()  # drawn without the phrases
    for test in ("test", "testA", "testB"):
        splits = {"train": "train", "val": "val", "test": test}
        data = SceneReferences(root=tmp_path, splits=splits, masks=True, **drawn, **loading)
        data.prepare_data()
        things = {
            tuple(a["bbox"]): (a, a["category_id"])
            for a in json.loads(data.ground_truth("test").read_text())["annotations"]
        }
        data.setup()
        boxes[test] = [
            (s.id, text, box) for s in data.split("test") for text, box in zip(s.captions, s.boxes, strict=True)
        ]
        shapes[test] = {
            things[left, top, right - left, bottom - top][1] for *_, (left, top, right, bottom) in boxes[test]
        }
        for batch in data.test_dataloader():
            for sample, found in zip(batch.raw, batch.boxes, strict=True):
                assert found.label.tolist() == list(range(len(sample.captions)))
                for box, mask in zip(sample.boxes, found.mask, strict=True):
                    annotation, _ = things[box[0], box[1], box[2] - box[0], box[3] - box[1]]
                    assert mask.sum() == annotation["area"]
                    assert not annotation["iscrowd"]
    assert shapes["testA"] == {1, 2}
    assert shapes["testB"] == shapes["test"] - {1, 2} != set()
    assert sorted(boxes["test"]) == sorted(boxes["testA"] + boxes["testB"])
    assert {Path(str(s.image)).parent.name for s in data.split("train")} == {"train", "restval"}
    batch = next(iter(data.train_dataloader()))
    assert all(len(found.label) == 1 for found in batch.boxes), "of the phrase that was chosen"
