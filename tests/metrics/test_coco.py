from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlp.metrics.coco import (
    KINDS,
    accumulate,
    box_results,
    encode_mask,
    evaluate,
    mask_results,
    per_class,
    read_ground_truth,
)
from vlp.system.errors import UserError


def _truth(annotations: list[tuple[int, int, list[float]]], images: int = 2, categories: int = 3) -> dict[str, Any]:
    """annotations: (image, category, [left, top, width, height])."""
    return {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, categories + 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, category, box) in enumerate(annotations)
        ],
    }


def _found(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


NEAR, FAR = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_pycocotools(shared: Path, kind: str) -> None:
    """Boxes and masks, with crowds and gaps in the ids; the twelve figures in pycocotools' order, and those of each class."""
    folder = shared / "reference/coco_metrics"
    expected = json.loads((folder / "expected.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    figures = evaluate(folder / "instances.json", results, kind=kind)
    assert list(figures) == [
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
    ]
    assert [-1 if value is None else value for value in figures.values()] == pytest.approx(expected[kind], abs=1e-12)
    truth = read_ground_truth(folder / "instances.json")
    arrays = accumulate(truth, results, kind=kind, image_ids={image["id"] for image in truth["images"]})
    classes = {str(category): value for category, value in per_class(arrays).items()}
    assert classes == pytest.approx(expected[f"{kind}_per_class"], abs=1e-12)
    of_two = evaluate(folder / "instances.json", results, kind=kind, subsets={"base": [1, 90]})["ap_base"]
    assert of_two == pytest.approx(np.mean([classes["1"], classes["90"]]), abs=1e-12)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("kind", KINDS)
def test_ground_truth_of_photos_finds_itself(shared: Path, kind: str, split: str) -> None:
    """COCO's own annotations given back as results, crowds left out: they are no mistakes."""
    path = shared / f"data/coco-sample/annotations/instances_{split}.json"
    truth = json.loads(path.read_text())
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for annotation in truth["annotations"]
        if not annotation["iscrowd"]
    ]
    figures = evaluate(path, results, kind=kind)
    assert figures["ap"] == pytest.approx(1.0, abs=1e-9)


def test_only_the_images_that_were_looked_at_count() -> None:
    truth = _truth([(1, 1, NEAR), (2, 1, NEAR)])
    results = [_found(1, 1, NEAR, 0.9), _found(2, 2, FAR, 0.8)]
    assert evaluate(truth, results)["ap"] == pytest.approx(51 / 101)  # recall reaches a half
    assert evaluate(truth, results, image_ids=[1])["ap"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="1 evaluated images are not in the ground truth, such as 7"):
        evaluate(truth, results, image_ids=[1, 7])
    with pytest.raises(UserError, match="no annotations"):
        evaluate({"images": [], "categories": []}, results)


def test_no_detection_and_no_object() -> None:
    assert evaluate(_truth([(1, 1, NEAR)]), [])["ap"] == 0.0
    figures = evaluate(_truth([]), [_found(1, 1, NEAR, 0.9)])
    assert set(figures.values()) == {None}


def test_a_first_annotation_of_id_0_is_found() -> None:
    """Evaluators mark what is not matched with 0: pycocotools would count this detection as wrong."""
    truth = _truth([(1, 1, NEAR)])
    assert truth["annotations"][0]["id"] == 0
    assert evaluate(truth, [_found(1, 1, NEAR, 0.9)])["ap"] == pytest.approx(1.0)
    assert truth["annotations"][0]["id"] == 0


def test_federated_ap_of_lvis_by_hand() -> None:
    """Image 1 shows category 1 and certainly no 2; nobody looked for 3. Image 2 shows 2 and 3, and maybe more of 2.

    Category 1: its one object is found                                                                        AP 1
    Category 2: 0.95 is not counted (image 2 may show more), 0.80 is wrong (image 1 shows none), 0.70 is right:
                precision 1/2 at every recall                                                                  AP 1/2
    Category 3: 0.90 is not counted (nobody looked for it in image 1), 0.50 is right                            AP 1
    Without the rule: category 2 has precision 1/3 and category 3 has 1/2.
    """
    truth = _truth([(1, 1, NEAR), (2, 2, NEAR), (2, 3, FAR)])
    for image, negative, not_exhaustive in zip(truth["images"], ([2], [1]), ([], [2]), strict=True):
        image |= {"neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive}
    for category, frequency in zip(truth["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    results = [
        _found(1, 1, NEAR, 0.90), _found(1, 2, FAR, 0.80), _found(1, 3, FAR, 0.90),
        _found(2, 2, FAR, 0.95), _found(2, 2, NEAR, 0.70), _found(2, 3, FAR, 0.50),
    ]  # fmt: skip
    figures = evaluate(truth, results, lvis_style=True)
    assert figures["ap"] == pytest.approx((1 + 1 / 2 + 1) / 3, abs=1e-9)
    rare, common, frequent = (figures[f"ap_{name}"] for name in ("rare", "common", "frequent"))
    assert (rare, common, frequent) == pytest.approx((1, 1 / 2, 1), abs=1e-9)
    assert figures["ar_300"] == pytest.approx(1.0)
    assert evaluate(truth, results)["ap"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3, abs=1e-9)


def test_lvis_counts_the_best_300_of_an_image() -> None:
    truth = _truth([(1, 1, NEAR)], images=1, categories=1)
    truth["categories"][0]["frequency"] = "f"
    others = [_found(1, 1, FAR, 0.9) for _ in range(300)]
    assert evaluate(truth, [*others, _found(1, 1, NEAR, 0.1)], lvis_style=True)["ap"] == 0.0
    assert evaluate(truth, [*others[1:], _found(1, 1, NEAR, 0.1)], lvis_style=True)["ap"] == pytest.approx(1 / 300)


def test_records_of_boxes_and_masks() -> None:
    box = np.array([[10.0, 20.0, 40.0, 60.0]])
    (record,) = box_results(42, box, np.array([0.5]), [18])
    assert record == {"image_id": 42, "category_id": 18, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    mask = np.zeros((100, 80), dtype=np.uint8)
    mask[20:60, 10:40] = 1
    code = encode_mask(mask)
    (masked,) = mask_results(1, [code], np.array([0.5]), [1])
    assert json.loads(json.dumps(masked)) == {"image_id": 1, "category_id": 1, "segmentation": code, "score": 0.5}
    truth = _truth([(1, 1, [10.0, 20.0, 30.0, 40.0])], images=1)
    truth["images"][0] |= {"height": 100, "width": 80}
    truth["annotations"][0]["segmentation"] = code
    assert evaluate(truth, [masked], kind="segm")["ap"] == pytest.approx(1.0)
