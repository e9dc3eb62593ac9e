"""COCO: captions, real files with exact counts, boxes, masks and their faults, panoptic segmentations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from tests.datasets.splits import pictures, sizes
from vlp.data.boxes import box_corners, clip_box
from vlp.data.issues import DataError, Faults
from vlp.data.masks import decode_mask
from vlp.data.pixel_labels import read_class_map, read_segment_ids
from vlp.data.view import VOID_CLASS
from vlp.datasets.coco import COCO
from vlp.launch.config.compose import conf_folder
from vlp.structures import Sample, Segment
from vlp.system.errors import UserError

Loading = dict[str, Any]


def official(shared: Path, loading: Loading, **changed: Any) -> COCO:
    return COCO(root=shared / "data/coco-sample", held_out=30, **{**loading, **changed})


def test_the_official_files_have_no_fault_and_every_annotation(shared: Path, loading: Loading) -> None:
    data = official(shared, loading, boxes=True)
    data.faults = Faults(collect=True)
    train, val, test = (data.samples(split) for split in ("train", "val", "test"))
    assert data.faults.issues == {}
    assert (len(train), len(val), len(test)) == (100, 30, 79)
    for samples, split, texts, instances, crowds in (
        ([*train, *val], "train2017", 650, 1209, 13), (test, "val2017", 395, 624, 5),
    ):  # fmt: skip
        assert sum(len(sample.captions) for sample in samples) == texts
        assert sum(len(sample.boxes) for sample in samples) == instances, f"{split}: crowds have boxes too"
        assert sum(sum(sample.box_crowds) for sample in samples) == crowds
        assert all(len(sample.box_crowds) == len(sample.boxes) for sample in samples)
        assert all(len(sample.boxes) == len(sample.box_labels) for sample in samples)
        assert all(set(sample.box_labels) <= set(sample.categories) for sample in samples)


def test_boxes_are_those_of_the_file_as_corners(shared: Path, loading: Loading) -> None:
    data = official(shared, loading, boxes=True)
    content = json.loads((shared / "data/coco-sample/annotations/instances_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    told = [a for a in content["annotations"] if a["image_id"] == 139 and not a["iscrowd"]]
    (sample,) = (sample for sample in data.samples("test") if sample.id == 139)
    for box, label, annotation in zip(sample.boxes, sample.box_labels, told, strict=True):
        left, top, width, height = annotation["bbox"]
        assert box == pytest.approx((left, top, left + width, top + height))
        assert data.class_names is not None
        assert data.class_names[label] == names[annotation["category_id"]]


def test_masks_of_the_official_files_are_decoded_where_they_are_asked_for(shared: Path, loading: Loading) -> None:
    """Their areas are those that the file states, crowds included: polygons and run-length codes at the photo's own size."""
    pytest.importorskip("pycocotools.mask")
    data = official(shared, loading, boxes=True, masks=True)
    data.faults = Faults(collect=True)
    samples = data.samples("test")
    assert data.faults.issues == {}
    content = json.loads((shared / "data/coco-sample/annotations/instances_val2017.json").read_text())
    assert data.ground_truth("test").samefile(shared / "data/coco-sample/annotations/instances_val2017.json")
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    areas = [a["area"] for a in content["annotations"] if a["image_id"] == samples[0].id]
    height, width = sizes[samples[0].id]
    for mask, area in zip(samples[0].box_masks, areas, strict=True):
        assert decode_mask(mask, height=height, width=width).sum() == pytest.approx(area, rel=0.05, abs=8)
    crowded = next(sample for sample in samples if any(sample.box_crowds))
    position, (height, width) = crowded.box_crowds.index(True), sizes[crowded.id]
    crowd = decode_mask(crowded.box_masks[position], height=height, width=width)
    (area,) = (a["area"] for a in content["annotations"] if a["image_id"] == crowded.id and a["iscrowd"])
    assert crowd.sum() == area
    assert official(shared, loading, boxes=True).samples("test")[0].box_masks == ()
    with pytest.raises(UserError, match=r"data\.masks=true gives masks to boxes: set data\.boxes=true"):
        official(shared, loading, masks=True)


def test_white_space_of_the_official_captions_is_made_single(shared: Path, loading: Loading) -> None:
    samples = official(shared, loading).samples("train") + official(shared, loading).samples("val")
    assert all(text == " ".join(text.split()) for sample in samples for text in sample.captions)
    content = json.loads((shared / "data/coco-sample/annotations/captions_train2017.json").read_text())
    assert sum(a["caption"] != " ".join(a["caption"].split()) for a in content["annotations"]) == 82


def test_caption_training_holds_no_boxes(shared: Path, loading: Loading) -> None:
    assert not any(sample.boxes or sample.box_labels for sample in official(shared, loading).samples("test"))


def write(root: Path, split: str, images: int = 2, first: int = 1) -> Path:
    """Images 1, 2, … of 6 × 4 pixels, with one caption and one box each, one of category 90.  first: the first's number."""
    year = f"COCO_{split}_" if split.endswith("2014") else ""
    numbers = range(first, first + images)
    records = [{"id": i, "file_name": f"{year}{i:012d}.jpg", "width": 6, "height": 4} for i in numbers]
    captions = [{"id": i, "image_id": i, "caption": f"photo {i}"} for i in numbers]
    boxes = [
        {"id": i, "image_id": i, "category_id": 90 if i == first else 7, "bbox": [1, 1, 2, 3], "iscrowd": 0}
        for i in numbers[:2]
    ]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}]
    (root / "annotations").mkdir(exist_ok=True)
    for what, content in (
        ("captions", {"images": records, "annotations": captions}),
        ("instances", {"images": records, "annotations": boxes, "categories": categories}),
    ):
        (root / "annotations" / f"{what}_{split}.json").write_text(json.dumps(content))
    (root / split).mkdir(exist_ok=True)
    for record in records:
        PIL.Image.new("RGB", (6, 4)).save(root / split / record["file_name"])
    return root


def test_splits_of_2014_have_their_own_file_names(tmp_path: Path, loading: Loading) -> None:
    write(write(tmp_path, "train2014", first=5), "val2014")
    data = COCO(root=tmp_path, train="train2014", test="val2014", held_out=1, boxes=True, **loading)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [1, 1, 2]
    first, second = data.split("test")
    assert first.image == tmp_path / "val2014" / "COCO_val2014_000000000001.jpg"
    assert (first.boxes, first.box_labels, second.box_labels) == (((1.0, 1.0, 3.0, 4.0),), (1,), (0,))
    assert data.class_names == ("train", "toothbrush"), "ids with gaps are counted without them, in their order"


def test_a_photo_in_training_and_test_is_an_error(tmp_path: Path, loading: Loading) -> None:
    write(write(tmp_path, "train2017"), "val2014", first=2)
    data = COCO(root=tmp_path, train="train2017", test="val2014", held_out=0, **loading)
    assert len(data.split("train")) == 2
    with pytest.raises(ValueError, match=r"1 images are in train2017 and in val2014: .*COCO_val2014_000000000002.jpg"):
        data.split("test")


def test_boxes_need_the_instances_file_and_captions_do_not(tmp_path: Path, loading: Loading) -> None:
    write(tmp_path, "val2017")
    (tmp_path / "annotations/instances_val2017.json").unlink()
    assert len(COCO(root=tmp_path, **loading).split("test")) == 2
    with pytest.raises(FileNotFoundError, match=r"instances is missing: there is no .*instances_val2017\.json"):
        COCO(root=tmp_path, boxes=True, **loading).split("test")


def test_the_instances_file_alone_is_enough_for_boxes_and_photos_without_things_stay(
    tmp_path: Path, loading: Loading
) -> None:
    write(tmp_path, "val2017", images=4)
    with_captions = COCO(root=tmp_path, boxes=True, **loading).split("test")
    (tmp_path / "annotations/captions_val2017.json").unlink()
    without = COCO(root=tmp_path, boxes=True, **loading)
    for samples in (without.split("test"), COCO(root=tmp_path, boxes=True, texts=False, **loading).split("test")):
        assert [sample.boxes for sample in samples] == [sample.boxes for sample in with_captions]
        assert [len(sample.boxes or ()) for sample in samples] == [1, 1, 0, 0]
        assert not any(sample.captions for sample in samples)
    assert without.category_ids == (7, 90)
    without.setup("test")
    batches = [batch for batch in without.test_dataloader() if batch is not None]
    assert [[len(boxes.label) for boxes in batch.boxes] for batch in batches] == [[1, 1, 0], [0]]
    assert all(batch.boxes[0].crowd is not None and batch.caption is None for batch in batches)
    with pytest.raises(FileNotFoundError, match="captions of toy is missing"):
        COCO(root=tmp_path, **loading).split("test")
    with pytest.raises(UserError, match=r"data\.texts=false leaves nothing to read"):
        COCO(root=tmp_path, texts=False, **loading)


def test_novel_categories_have_no_boxes_in_training_and_others_are_not_read(tmp_path: Path, loading: Loading) -> None:
    write(write(tmp_path, "train2017", images=2), "val2017", images=4, first=5)
    for split in ("train2017", "val2017"):
        path = tmp_path / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 3, "name": "car"})
        content["annotations"] += [
            {"id": 70, "image_id": content["images"][-1]["id"], "category_id": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0}
        ]
        path.write_text(json.dumps(content))

    def read(**settings: Any) -> tuple[COCO, list[Any], list[Any]]:
        data = COCO(root=tmp_path, held_out=0, boxes=True, texts=False, **settings, **loading)
        return data, *([(s.id, s.box_labels) for s in data.split(split)] for split in ("train", "test"))

    data, train, test = read(categories=["toothbrush", "train"], novel=["train"])
    assert (data.class_names, data.category_ids) == (("train", "toothbrush"), (7, 90))
    assert train == [(1, (1,))], "a photo that shows novel things alone is no training photo"
    assert test == [(5, (1,)), (6, (0,))], "nor is one that shows other categories one of the test"
    data, train, test = read(novel=["car"])
    assert (data.class_names, data.category_ids) == (("car", "train", "toothbrush"), (3, 7, 90))
    assert train == [(1, (2,)), (2, (1,))]
    assert test == [(5, (2,)), (6, (1,)), (7, ()), (8, (0,))]
    with pytest.raises(UserError, match=r"instances_train2017\.json has no category bus: correct data\.categories"):
        read(categories=["bus"])


def test_the_48_base_and_17_novel_categories_are_cocos(shared: Path, loading: Loading) -> None:
    chosen = yaml.safe_load((conf_folder() / "data/coco_open_vocabulary.yaml").read_text())
    named = {key: chosen[key] for key in ("categories", "novel")}
    data = official(shared, loading, boxes=True, texts=False, **named)
    data.split("train")
    assert data.class_names is not None
    assert (len(data.class_names), len(set(data.class_names) - set(chosen["novel"]))) == (65, 48)
    novel = {data.class_names.index(name) for name in chosen["novel"]}
    assert not any(set(sample.box_labels) & novel for split in ("train", "val") for sample in data.split(split))
    assert any(set(sample.box_labels) & novel for sample in data.split("test"))
    assert all(sample.boxes for split in ("train", "val", "test") for sample in data.split(split))


@pytest.mark.parametrize(
    ("mask", "kind"),
    [([[1, 2, 3]], "of an unknown form"), ({"counts": [24], "size": [6, 4]}, "of another size"), (None, "form")],
)
def test_masks_with_faults_are_named(tmp_path: Path, loading: Loading, mask: Any, kind: str) -> None:
    path = write(tmp_path, "val2017") / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = mask
    content["annotations"][1]["segmentation"] = {"counts": [24], "size": [4, 6]}
    path.write_text(json.dumps(content))
    data = COCO(root=tmp_path, boxes=True, masks=True, **loading)
    data.faults = Faults(collect=True)
    assert [len(sample.box_masks) for sample in data.samples("test")] == [0, 1]
    ((fault, fatal),) = data.faults.issues
    assert kind in fault
    assert fatal
    with pytest.raises(DataError, match=r"instances_val2017\.json: annotation 1: a mask"):
        COCO(root=tmp_path, boxes=True, masks=True, **loading).split("test")
    assert len(COCO(root=tmp_path, boxes=True, **loading).split("test")) == 2


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_turned_photo_is_seen_as_its_boxes_are(tmp_path: Path, loading: Loading, orientation: int) -> None:
    """COCO's boxes are of the stored photo: with them EXIF's orientation is not applied, and predictions land there too."""
    path = write(tmp_path, "val2017") / "val2017" / "000000000001.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", (6, 4)).save(path, exif=exif)
    data = COCO(root=tmp_path, boxes=True, **loading)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    left, top, width, height = batch.frame[0].tolist()
    assert (left, top, width, height) == (1, 0, 4, 4), "the centre of the stored 6 × 4"
    x0, y0, x1, y1 = batch.boxes[0].xyxy[0].tolist()
    assert (left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height) == pytest.approx((1, 1, 3, 4))


def test_boxes_given_as_corners_are_an_error(tmp_path: Path, loading: Loading) -> None:
    path = write(tmp_path, "val2017") / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    for annotation, box in zip(content["annotations"], ([4, 2, 6, 4], [3, 3, 6, 4]), strict=True):
        annotation["bbox"] = box
    path.write_text(json.dumps(content))
    assert len(COCO(root=tmp_path, **loading).split("test")) == 2
    with pytest.raises(
        DataError, match=r"2 of 2 boxes lead out of their images and would not as corners: write them as"
    ):
        COCO(root=tmp_path, boxes=True, **loading).split("test")


def test_an_image_whose_boxes_are_all_faulty_keeps_an_empty_target(tmp_path: Path, loading: Loading) -> None:
    path = write(tmp_path, "val2017") / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [1, 1, -2, 3]
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"instances_val2017.json: box of no area, 1 left out: annotation 1"):
        first, second = COCO(root=tmp_path, boxes=True, **loading).split("test")
    assert (first.boxes, first.box_labels, len(second.boxes)) == ((), (), 1)


def test_boxes_are_cut_at_the_edges_of_the_photo() -> None:
    assert clip_box(box_corners(-2, -1, 5, 5), (10.0, 3.0)) == (0, 0, 3, 3)
    for box, kind in (
        ((0, 0, 0, 1), "of no area"),
        ((0, 0, 1, -1), "of no area"),
        ((True, 0, "x", 1), "not four numbers"),
    ):
        with pytest.raises(DataError, match=kind):
            box_corners(*box)
    for left in (10, -5):
        with pytest.raises(DataError, match="outside the image of 10 × 3 pixels"):
            clip_box(box_corners(left, 0, 5, 5), (10.0, 3.0))


# -- panoptic ----------------------------------------------------------------------------------------------------------

SEGMENTS = {3_000_000: 90, 70_001: 7}  # ids that need all three colours, and their categories


def add_panoptic(root: Path, split: str = "val2017") -> Path:
    numbers = np.zeros((4, 6), dtype=np.uint32)
    numbers[:2], numbers[2:, :3] = 3_000_000, 70_001
    pixels = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)
    folder = root / "annotations" / f"panoptic_{split}"
    folder.mkdir()
    annotations = []
    for image in (1, 2):
        PIL.Image.fromarray(pixels).save(folder / f"{image:012d}.png")
        segments = [
            {"id": number, "category_id": category, "iscrowd": int(category == 7), "area": 12}
            for number, category in SEGMENTS.items()
        ]
        annotations.append({"image_id": image, "file_name": f"{image:012d}.png", "segments_info": segments})
    categories = [{"id": 90, "name": "sky-other", "isthing": 0}, {"id": 7, "name": "train", "isthing": 1}]
    content = {"annotations": annotations, "categories": categories}
    (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return root


def panoptic(root: Path, loading: Loading) -> COCO:
    return COCO(root=root, panoptic=True, **loading)


def test_a_panoptic_picture_becomes_a_map_of_categories(tmp_path: Path, loading: Loading) -> None:
    data = panoptic(add_panoptic(write(tmp_path, "val2017")), loading)
    sample = data.split("test")[0]
    assert data.segment_names == ("train", "sky-other")
    assert (data.segment_ids, data.segment_things) == ((7, 90), (True, False))
    assert sample.segments == (Segment(3_000_000, 1, False, 12), Segment(70_001, 0, True, 12))
    expected = np.full((4, 6), VOID_CLASS, dtype=np.uint8)
    expected[:2], expected[2:, :3] = 1, 0
    np.testing.assert_array_equal(read_class_map(sample, (6, 4)), expected)
    assert not any(sample.panoptic or sample.segments for sample in COCO(root=tmp_path, **loading).split("test"))


def test_the_official_examples_of_panoptic_segmentation(shared: Path, tmp_path: Path, loading: Loading) -> None:
    """Ids, crowds and things of two photos, whose areas are the numbers of their pixels."""
    examples, root = shared / "data/coco-panoptic-sample/sample_data", tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").symlink_to(examples / "input_images")
    (root / "annotations/panoptic_val2017").symlink_to(examples / "panoptic_examples")
    content = json.loads((examples / "panoptic_examples.json").read_text())
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    captions = [{"id": image["id"], "image_id": image["id"], "caption": "a photo"} for image in content["images"]]
    captions_file = root / "annotations/captions_val2017.json"
    captions_file.write_text(json.dumps({"images": content["images"], "annotations": captions}))
    data = panoptic(root, {**loading, "follow_symlinks": True})
    samples = data.split("test")
    assert data.segment_things is not None
    assert (len(data.segment_things), sum(data.segment_things)) == (133, 80)
    for sample, annotation in zip(samples, content["annotations"], strict=True):
        assert sample.panoptic is not None
        ids = read_segment_ids(sample.panoptic)
        assert [segment.id for segment in sample.segments] == [info["id"] for info in annotation["segments_info"]]
        assert [segment.area for segment in sample.segments] == [(ids == s.id).sum() for s in sample.segments]
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.segments is not None
    visible = [{s.id for s in sample.segments if not s.crowd} for sample in samples]
    assert all(len(one.label) <= len(ids) for one, ids in zip(batch.segments, visible, strict=True))
    for one, classes in zip(batch.segments, batch.segmentation, strict=True):
        inside = one.index >= 0
        assert one.label[one.index[inside]].tolist() == classes[inside].tolist()


def test_pictures_of_another_size_or_kind_are_refused(tmp_path: Path, loading: Loading) -> None:
    sample = panoptic(add_panoptic(write(tmp_path, "val2017")), loading).split("test")[0]
    with pytest.raises(DataError, match="6 × 4 pixels, where the photo has 7 × 4"):
        read_class_map(sample, (7, 4))
    assert sample.panoptic is not None
    PIL.Image.new("L", (6, 4)).save(sample.panoptic)
    with pytest.raises(DataError, match="the mode is L"):
        read_class_map(sample)
    with pytest.raises(AssertionError):
        read_class_map(Sample(id=1, sample=1, image=tmp_path))


def test_panoptic_files_with_faults(tmp_path: Path, loading: Loading) -> None:
    add_panoptic(write(tmp_path, "val2017", images=8))
    folder, path = tmp_path / "annotations/panoptic_val2017", tmp_path / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    good = content["annotations"][0]
    PIL.Image.new("RGB", (9, 9)).save(folder / "large.png")
    (folder / "damaged.png").write_bytes((folder / "000000000001.png").read_bytes()[:60])
    content["annotations"] += [
        good,
        {**good, "image_id": 99},
        {**good, "image_id": 3, "file_name": "../../etc/passwd"},
        {**good, "image_id": 4, "file_name": "none.png"},
        {**good, "image_id": 5, "segments_info": [{"id": 1, "category_id": 8}]},
        {**good, "image_id": 6, "file_name": "large.png"},
        {**good, "image_id": 7, "file_name": "damaged.png"},
    ]
    path.write_text(json.dumps(content))
    data = panoptic(tmp_path, loading)
    data.faults = Faults(collect=True)
    assert [sample.id for sample in data.samples("test")] == [1, 2]
    assert {(f.kind, f.fatal): f.count for f in data.faults.issues.values()} == {
        ("duplicate annotation id", True): 1,
        ("annotation of an unknown image", False): 1,
        ("path outside the root", True): 1,
        ("missing file", True): 1,
        ("unknown category", True): 1,
        ("image without segmentation", True): 2,  # that of the unknown category, and image 8
        ("segmentation of another size", True): 1,
        ("segmentation cannot be read", True): 1,
    }
    with pytest.raises(DataError, match="image 1 has segments more than once"):
        panoptic(tmp_path, loading).split("test")


def test_coco_in_its_official_layout(shared: Path, loading: Loading) -> None:
    data = COCO(root=shared / "data/coco-sample", held_out=30, **loading)
    assert sizes(data) == (100, 30, 79)
    assert sum(len(sample.captions) for sample in data.split("test")) == 395
    assert data.class_names is not None
    assert len(data.class_names) == 80
    assert (data.class_names[0], data.class_names[79]) == ("person", "toothbrush")  # official ids 1 and 90
    first = next(sample for sample in data.split("test") if sample.id == 139)
    assert {"person", "chair", "tv"} <= {data.class_names[index] for index in first.categories}
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.categories is not None
    assert batch.categories.shape == (3, 80)


def coco(tmp_path: Path, loading: Loading, images: list[Any], annotations: list[Any]) -> COCO:
    (tmp_path / "annotations").mkdir(exist_ok=True)
    pictures(tmp_path / "val2017", "1.jpg", "2.jpg")
    content = {"images": images, "annotations": annotations}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(content))
    return COCO(root=tmp_path, **loading)


def test_coco_files_with_faults(tmp_path: Path, loading: Loading) -> None:
    one, two = {"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}
    good, other = {"id": 1, "image_id": 1, "caption": "x"}, {"id": 2, "image_id": 9, "caption": "y"}
    with pytest.warns(UserWarning, match="captions of 1 unknown images are left out: 9"):
        assert len(coco(tmp_path, loading, [one], [good, other]).split("test")) == 1
    with pytest.raises(ValueError, match="not unique: 1"):
        coco(tmp_path, loading, [one, one], [good]).split("test")
    with pytest.raises(ValueError, match="not unique: 1"):
        coco(tmp_path, loading, [one], [good, good]).split("test")
    with pytest.raises(ValueError, match=r"1 test images of toy have no caption, no question and no class: 2.jpg"):
        coco(tmp_path, loading, [one, two], [good]).split("test")
    with pytest.raises(FileNotFoundError, match=r"captions_train2017.json"):
        coco(tmp_path, loading, [one], [good]).split("train")
