"""Official files in which one value is replaced by another: readers skip such records and report them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.datamodule import DataModule
from vlp.data.issues import Faults
from vlp.datasets.class_folders import ClassFolders
from vlp.datasets.coco import COCO
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.salesforce_json import SalesforceJson
from vlp.datasets.table import Table
from vlp.datasets.visual_genome import VisualGenome
from vlp.datasets.vqa_v2 import VQAv2

Loading = dict[str, Any]
Make = Callable[..., DataModule]

REPLACEMENTS: list[Any] = [
    None, True, -1, 0, 7, 10**30, 1.5, float("nan"), float("inf"), "", " ", "7", "x" * 2000, "\x00", "\ud800", "../x",
    [], [[]], [None], [7], {}, {"a": 1}, {"id": []},
]  # fmt: skip
CHANGES = 80  # of each file

BOX = {"x": 1, "y": 1, "w": 3, "h": 3}
PHOTOS = [
    {"image_id": i, "url": f"a/VG_100K/{i}.jpg", "width": 8, "height": 8, "coco_id": 1, "flickr_id": 2} for i in (1, 2)
]
NAMED = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]
SPLITS = {"train": "train", "val": "val", "test": "test"}

# reader, its settings, and small correct files: name → content
CASES: dict[str, tuple[Make, dict[str, Any], dict[str, Any]]] = {
    "karpathy": (Karpathy, {"annotations": "d.json", "images": "."}, {"d.json": {"dataset": "flickr8k", "images": [
        {"split": split, "filename": f"{i}.jpg", "filepath": "val2014", "imgid": i, "cocoid": i,
         "sentences": [{"raw": "x"}, {"raw": "y"}]} for i, split in enumerate(("train", "val", "test", "restval"))]}}),
    "coco": (COCO, {"boxes": True, "panoptic": True, "held_out": 1, "train": "val", "test": "val"}, {
        "annotations/captions_val.json": {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 8} for i in (1, 2, 3)],
            "annotations": [{"id": i, "image_id": i, "caption": "x"} for i in (1, 2, 3)]},
        "annotations/instances_val.json": {"categories": NAMED, "annotations": [
            {"id": i, "image_id": i, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": 0} for i in (1, 2, 3)]},
        "annotations/panoptic_val.json": {"categories": NAMED, "annotations": [
            {"image_id": i, "file_name": "1.jpg", "segments_info": [{"id": 5, "category_id": 1}]} for i in (1, 2)]}}),
    "flat_json": (SalesforceJson, {"files": {split: f"{split}.json" for split in SPLITS}, "answer_vocabulary": "map.json"}, {
        "train.json": [{"image": "a.jpg", "caption": ["x"], "image_id": "a"}, {"image": "b.jpg", "caption": "x",
                        "relation": "on", "label": 1}, {"image_id": "c", "caption_str": "x"}],
        "val.json": {"data": [{"image": "v.jpg", "caption": "x"}]},
        "test.json": [{"image": "q.jpg", "question": "x", "question_id": 1, "answers": [{"answer": "y"}], "dataset": "vqa"},
                      {"image": "q.jpg", "question": "x", "direct_answers": ["y"], "choices": ["a"], "correct_choice_idx": 0}],
        "map.json": {"yes": 0, "no": 1}}),
    "visual_genome": (VisualGenome, {"crop": True, "exclude_coco": "c.json", "exclude_flickr": "f.json"}, {
        "image_data.json": PHOTOS, "c.json": [7, "8.jpg"],
        "f.json": {"images": [{"split": "val", "filename": "9.jpg"}, {"split": "test", "cocoid": 10}]},
        "region_descriptions.json": [{"id": 1, "regions": [
            {"region_id": i, "phrase": "x", "x": 1, "y": 1, "width": 3, "height": 3} for i in (1, 2)]}]}),
    "objects": (VisualGenome, {"content": "objects", "boxes": True}, {"image_data.json": PHOTOS, "objects.json": [
        {"image_id": 1, "objects": [{**BOX, "object_id": 1, "names": ["x"]}]}]}),
    "attributes": (VisualGenome, {"content": "attributes"}, {"image_data.json": PHOTOS, "attributes.json": [
        {"id": 1, "attributes": [{**BOX, "id": 1, "object_names": ["x"], "attributes": ["a"]}]}]}),
    "relationships": (VisualGenome, {"content": "relationships", "crop": True}, {
        "image_data.json": PHOTOS, "relationships.json": [{"image_id": 1, "relationships": [
            {"relationship_id": 1, "subject": {**BOX, "name": "a"}, "predicate": "ON", "object": {**BOX, "names": ["b"]}}]}]}),
    "questions": (VisualGenome, {"content": "questions", "held_out": 1}, {
        "image_data.json": PHOTOS, "question_answers.json": [
            {"id": i, "qas": [{"qa_id": i, "question": "x", "answer": "y"}]} for i in (1, 2)]}),
    "vqa_v2": (VQAv2, {"splits": {**SPLITS}, "min_answer_count": 1, "in_vocabulary_only": True}, {
        **{f"vqa/v2_OpenEnded_mscoco_{split}_questions.json": {"questions": [
            {"question_id": i, "image_id": i, "question": "x"} for i in (1, 2)]} for split in SPLITS},
        **{f"vqa/v2_mscoco_{split}_annotations.json": {"annotations": [
            {"question_id": i, "answers": [{"answer": "yes"}], "multiple_choice_answer": "yes",
             "question_type": "is", "answer_type": "yes/no"} for i in (1, 2)]}
           for split in SPLITS}}),
    "table": (Table, {"table": {split: f"{split}.jsonl" for split in SPLITS}, "label": "label"}, {
        f"{split}.jsonl": {"image": f"{split}.jpg", "caption": ["x"], "label": "a"} for split in SPLITS}),
    "class_folders": (ClassFolders, {"splits": {"test": "."}, "class_names_file": "names.json"}, {
        "names.json": {"val2014": "x", "annotations": "y", "vqa": "z"}}),
}  # fmt: skip


def value_paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from value_paths(value, (*path, key))


def damage(content: Any, draw: random.Random) -> Any:
    """A copy in which one value is replaced or one key is deleted."""
    changed = copy.deepcopy(content)
    path = draw.choice(list(value_paths(content)))
    if not path:
        return draw.choice(REPLACEMENTS)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if isinstance(parent, dict) and draw.random() < 0.2:
        del parent[path[-1]]
    else:
        parent[path[-1]] = draw.choice(REPLACEMENTS)
    return changed


@pytest.mark.parametrize("case", CASES)
def test_any_damage_is_reported(tmp_path: Path, loading: Loading, case: str) -> None:
    make, settings, files = CASES[case]
    for name in ("val2014/0.jpg", "annotations/panoptic_val/1.jpg", "vqa/x.jpg", "val/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")

    def read_all(changed: dict[str, Any]) -> tuple[int, set[str]]:
        for name, content in changed.items():
            (tmp_path / name).write_text(json.dumps(content))
        data = make(root=tmp_path, **settings, **loading)
        data.faults = Faults(collect=True)
        samples = [sample for split in SPLITS for sample in data.samples(split)]
        assert all(0 <= number < 1 << 63 for sample in samples for number in (sample.id, sample.sample)), (
            "int64 in a batch"
        )
        return len(samples), {finding.kind for finding in data.faults.issues.values()}

    count, kinds = read_all(files)
    assert count > 0
    draw, reported_differently = random.Random(0), 0
    for _ in range(CHANGES):
        name = draw.choice(list(files))
        changed = damage(files[name], draw)
        try:
            _, now = read_all({**files, name: changed})
        except Exception as error:
            raise AssertionError(f"{name}: {json.dumps(changed)[:300]}") from error
        reported_differently += now != kinds
        assert all(kind.islower() or " " in kind for kind in now), f"a kind that is the name of a class: {now}"
    assert reported_differently > CHANGES / 5
