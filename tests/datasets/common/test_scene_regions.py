"""Boxes, masks and segments of scenes as samples and batches, against the files and the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlp.data.transforms import EvalTransform
from vlp.datasets.coco import COCO
from vlp.datasets.common.scene_regions import other_names
from vlp.datasets.scenes import Scenes
from vlp.scenes.generate import generate
from vlp.scenes.scene import SHAPES
from vlp.system.errors import UserError

COUNTS = {"train": 12, "restval": 4, "val": 8, "test": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


def scenes(folder: Path, loading: dict[str, Any], *, crowded: bool, **changed: Any) -> Scenes:
    size = 96 if crowded else 32
    loading["transform"] = {kind: EvalTransform(image_size=size) for kind in ("train", "eval")}
    data = Scenes(root=folder, **{"images": COUNTS, "size": size, "crowded": crowded, **loading, **changed})
    data.prepare_data()
    return data


@pytest.mark.parametrize("crowded", [False, True])
def test_batches_have_the_segments_of_the_pngs(folder: Path, loading: dict[str, Any], crowded: bool) -> None:
    data = scenes(folder, loading, crowded=crowded, panoptic=True)
    data.setup()
    assert data.segment_names == (*SHAPES, "background", "frame")
    assert data.segment_ids == (*range(1, 10), 92, 95)
    assert data.segment_things == (True,) * 9 + (False,) * 2
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        for batch in loader:
            assert batch.segmentation is not None
            for number, segmentation in zip(batch.id.tolist(), batch.segmentation, strict=True):
                (sample,) = [s for s in data.split(split) if s.id == number]
                colours = np.asarray(Image.open(sample.panoptic)).astype(int)
                ids = torch.from_numpy(colours @ np.array([1, 256, 65536]))
                for segment in sample.segments:
                    assert (segmentation[ids == segment.id] == segment.label).all()
                assert not (segmentation == 255).any(), "every pixel has a class"
    assert {Path(str(s.image)).parent.name for s in data.split("train")} == {"train", "restval"}
    assert any(segment.crowd for sample in data.split("train") for segment in sample.segments) == crowded


def test_crowded_scenes_have_visible_boxes_crowds_and_empty_pictures(folder: Path, loading: dict[str, Any]) -> None:
    data = scenes(folder, loading, crowded=True, boxes=True, masks=True)
    data.setup()
    content = [
        json.loads((data.root / f"annotations/instances_{part}.json").read_text()) for part in ("train", "restval")
    ]
    official = {a["id"]: a for part in content for a in part["annotations"]}
    samples = data.split("train")
    assert sum(len(sample.boxes) for sample in samples) == len(official)
    assert any(not sample.boxes for sample in samples)
    assert sum(sum(sample.box_crowds) for sample in samples) == sum(a["iscrowd"] for a in official.values()) > 0
    by_image = {s.id: [a for a in official.values() if a["image_id"] == s.id] for s in samples}
    for batch in data.train_dataloader():
        assert batch.boxes is not None
        assert batch.choices is None
        for number, boxes in zip(batch.id.tolist(), batch.boxes, strict=True):
            assert boxes.mask is not None
            assert boxes.mask.sum((1, 2)).tolist() == [a["area"] for a in by_image[number]]
            assert boxes.crowd is not None
            assert boxes.crowd.tolist() == [bool(a["iscrowd"]) for a in by_image[number]]
            assert boxes.label.tolist() == [a["category_id"] - 1 for a in by_image[number]]
            assert not (boxes.mask.sum(0) > 1).any()
    batch = next(iter(data.val_dataloader()))
    assert batch.choices is batch.label is None
    assert batch.caption is not None


def test_names_of_classes(folder: Path, loading: dict[str, Any]) -> None:
    named = {
        names: scenes(folder, loading, crowded=False, boxes=True, names=names)
        for names in ("words", "synonyms", "pairs")
    }
    for data in named.values():
        data.split("val")
    assert named["words"].class_names == tuple(SHAPES)
    assert named["synonyms"].class_names == (
        "disc",
        "box",
        "triangle",
        "star",
        "heart",
        "hoop",
        "cross",
        "arrow",
        "moon",
    )
    assert named["synonyms"].category_ids == named["words"].category_ids
    assert [s.box_labels for s in named["synonyms"].split("val")] == [s.box_labels for s in named["words"].split("val")]
    pairs = named["pairs"]
    assert pairs.class_names is not None
    assert len(pairs.class_names) == len(pairs.category_ids) == 63
    for sample, plain in zip(pairs.split("val"), named["words"].split("val"), strict=True):
        assert sample.boxes == plain.boxes
        shapes = [pairs.class_names[label].split()[1] for label in sample.box_labels]
        assert shapes == [list(SHAPES)[label] for label in plain.box_labels]
    truth = json.loads(pairs.ground_truth("val").read_text())
    assert {c["id"]: c["name"] for c in truth["categories"]} == dict(
        zip(pairs.category_ids, pairs.class_names, strict=True)
    )
    assert other_names(["ring", "background"], "synonyms") == ("hoop", "background")
    assert other_names(["ring"], "pairs") == ("ring",)


def test_a_folder_drawn_without_segments_gets_them_and_says_so(
    tmp_path: Path, loading: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = Scenes(root=tmp_path, images={"train": 3, "val": 2}, size=32, panoptic=True, **loading)
    generate(data.root, images={"train": 3, "val": 2}, size=32, seed=0)  # as earlier versions did
    data.prepare_data()
    assert capsys.readouterr().err == f"adding panoptic to the scenes in {data.root}\n"
    assert all(sample.panoptic is not None for sample in data.split("train"))
    data.prepare_data()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": "other"}, "data.names='other': choose words, synonyms, pairs"),
        ({"names": "synonyms"}, "set data.boxes=true"),
        ({"names": "pairs", "panoptic": True}, "set data.boxes=true"),
    ],
)
def test_mistakes_are_named(folder: Path, loading: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Scenes(root=folder, images=COUNTS, **loading, **settings)


@pytest.mark.parametrize("crowded", [False, True])
def test_coco_s_reader_finds_the_same_in_the_folder(folder: Path, loading: dict[str, Any], crowded: bool) -> None:
    wanted: dict[str, Any] = {"boxes": True, "masks": True, "panoptic": True}
    data = scenes(folder, loading, crowded=crowded, **wanted)
    official = COCO(root=data.root, train="train", test="val", held_out=0, **wanted, **loading)
    fields = ("id", "image", "captions", "categories", "boxes", "box_labels", "box_crowds", "box_masks", "panoptic", "segments",
              "as_stored")  # fmt: skip
    ours, theirs = (
        [{name: getattr(sample, name) for name in fields} for sample in read.split(split)]
        for read, split in ((data, "val"), (official, "test"))
    )
    assert ours == theirs
    for name in ("class_names", "category_ids", "segment_names", "segment_ids", "segment_things"):
        assert getattr(data, name) == getattr(official, name)
    assert data.ground_truth("val").samefile(official.ground_truth("test"))


def test_the_evaluation_of_coco_scores_the_truth_as_perfect_and_ignores_crowds(
    folder: Path, loading: dict[str, Any]
) -> None:
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    data = scenes(folder, loading, crowded=True)
    truth = coco.COCO(str(data.root / "annotations/instances_train.json"))
    annotations = truth.dataset["annotations"]
    assert any(annotation["iscrowd"] for annotation in annotations)
    found = [{key: a[key] for key in ("image_id", "category_id")} | {"score": 0.5} for a in annotations]
    boxes = [result | {"bbox": a["bbox"]} for result, a in zip(found, annotations, strict=True)]
    masks = [result | {"segmentation": truth.annToRLE(a)} for result, a in zip(found, annotations, strict=True)]
    for kind, results in (("bbox", boxes), ("segm", masks)):
        measured = evaluation.COCOeval(truth, truth.loadRes(results), kind)
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
        assert measured.stats[[0, 3, 4]] == pytest.approx(1.0), "all, small and medium things"
        assert measured.stats[5] == -1, "none is large at this size"
    for annotation in annotations:
        assert truth.annToMask(annotation).sum() == annotation["area"]
