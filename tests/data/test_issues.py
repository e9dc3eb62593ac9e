"""Files full of planted faults: read with faults collected, each is told by its kind, and the good records come back."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError, Faults
from vlp.datasets.class_folders import ClassFolders
from vlp.datasets.coco import COCO
from vlp.datasets.flickr import Flickr
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.salesforce_json import SalesforceJson
from vlp.datasets.scenes import Scenes
from vlp.datasets.table import Table
from vlp.datasets.visual_genome import VisualGenome
from vlp.datasets.vqa_v2 import VQAv2
from vlp.structures import Sample

Loading = dict[str, Any]
IssueCounts = dict[str, int]

EMPTY, BARE = "empty caption", "image without caption"


def read_and_count(data: DataModule, *splits: str) -> tuple[list[list[Sample]], IssueCounts, IssueCounts]:
    """The samples of the splits; the faults that would end a run; and those that a run continues without, by kind."""
    data.faults = Faults(collect=True)
    samples = [list(data.samples(split)) for split in splits]
    found = data.faults.issues.values()
    assert all(finding.examples for finding in found)
    return (
        samples,
        {finding.kind: finding.count for finding in found if finding.fatal},
        {finding.kind: finding.count for finding in found if not finding.fatal},
    )


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(folder / name)


def captions(samples: list[Sample]) -> list[tuple[str, ...]]:
    return [sample.captions for sample in samples]


def test_errors_keep_their_kind_on_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(DataError("empty caption", "a.json: empty")))
    assert (error.kind, str(error)) == ("empty caption", "a.json: empty")


# what can be wrong with a file as a whole, and what a check calls it
FILES = [
    (None, "missing file"),
    (b"folder", "file cannot be read"),
    (b"", "not valid JSON"),
    (b'{"images": [', "not valid JSON"),
    (b"<html>404</html>", "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"images": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (b'{"images": "\xe9"}', "not UTF-8"),
    (b'{"images": {"a": 1}, "questions": 7}', "unexpected structure"),
    (b"[1, 2]", "unexpected structure"),
]


@pytest.mark.parametrize(("content", "kind"), FILES)
def test_a_file_that_cannot_be_read_is_one_finding_and_no_sample(
    tmp_path: Path, loading: Loading, content: bytes | None, kind: str
) -> None:
    whole = {**loading, "root": tmp_path}
    for folder in ("train", "val", "test", "images"):
        (tmp_path / folder).mkdir()
    files = {"annotations/captions_train.json": COCO(train="train", test="test", held_out=1, **whole)}
    files["d.json"] = Karpathy(annotations="d.json", images=".", **whole)
    files["vqa/v2_OpenEnded_mscoco_train_questions.json"] = VQAv2(splits={"train": "train"}, **whole)
    files["image_data.json"] = VisualGenome(**whole)
    if kind not in ("unexpected structure",):
        files["flat.json"] = SalesforceJson(files={"train": "flat.json"}, **whole)
    put(tmp_path / "region_descriptions.json", [])
    for name, data in files.items():
        if content == b"folder":
            (tmp_path / name).mkdir(parents=True)
        elif content is not None:
            put(tmp_path / name, content)
        (samples,), errors, others = read_and_count(data, "train")
        assert (samples, errors, others) == ([], {kind: 1}, {}), name


def test_karpathy(tmp_path: Path, loading: Loading) -> None:
    def image(number: int, split: str = "train", *sentences: Any, **changed: Any) -> dict[str, Any]:
        raw = [{"raw": sentence} for sentence in (sentences or ("x",))]
        return {"cocoid": number, "split": split, "filename": f"{number}.jpg", "sentences": raw, **changed}

    images = [
        image(1, "train", "one", " \n", "\x1b[31m"),
        image(2, "train", "\t"),
        image(3, "train", sentences=[]),
        image(4, "dev"),
        image(5, filename="../../etc/passwd"),
        image(6, filename="link.jpg"),
        image(7, filename="a\\b.jpg"),
        image(8, filename=None),
        image(8, "test", "eight"),
        image(8, "test", filename="9.jpg"),
        image(10, "test", filename="1.jpg"),
        {"cocoid": 11, "split": "train"},
        image(12, cocoid="twelve"),
        image(13, "train", 13),
        image(14, sentences="x"),
        image(15, "test", "a", " "),
        image(16, "val", sentences=[]),
        image(17, "val", "x" * 100_000),
        image(18, "restval"),
        image(19, "train", "half \ud800"),
    ]
    put(tmp_path / "d.json", json.dumps({"images": images}))
    pictures(tmp_path / "images", "1.jpg")
    os.symlink(tmp_path / "d.json", tmp_path / "images" / "link.jpg")
    data = Karpathy(root=tmp_path, annotations="d.json", images="images", **loading)
    (train, val, test), errors, others = read_and_count(data, "train", "val", "test")
    assert captions(train) == [("one", "\x1b[31m")]
    assert (captions(val), captions(test)) == ([("x" * 100_000,)], [("eight",)])
    assert errors == {
        "path outside the root": 1, "symbolic link out of the root": 1, "not a file name": 2, "duplicate image id": 1,
        "file listed twice": 1, "missing key": 1, "id is no whole number": 1, "caption is no text": 1,
        "unexpected structure": 1, EMPTY: 1, BARE: 1, "half a character": 1,
    }  # fmt: skip
    assert others == {EMPTY: 2, BARE: 2, "unknown split": 1}


def test_coco(tmp_path: Path, loading: Loading) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (*range(1, 8), 7)]
    images += [{"file_name": "x.jpg"}, {"id": 20, "width": 9, "height": 9}, {"id": 21, "file_name": "/etc/passwd"}]
    texts = [
        (1, "one"),
        (1, " "),
        (2, "two"),
        (3, ""),
        (5, None),
        (6, "six"),
        (7, "7"),
        (20, "20"),
        (21, "21"),
        (99, "?"),
    ]
    told_of = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(texts)]
    told_of += [told_of[0], {"image_id": 1, "caption": "no id"}, {"id": 50, "image_id": None, "caption": "x"}]
    put(tmp_path / "annotations/captions_val2017.json", {"images": images, "annotations": told_of})

    def box(number: int, bbox: Any, image: int = 2, category: Any = 7, crowd: int = 0) -> dict[str, Any]:
        return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": crowd}

    nan = float("nan")
    boxes = [
        box(1, [1, 2, 3, 4]),
        box(2, [90, 40, 20, 20], category=90),
        box(3, [0, 0, 9, 9], crowd=1),
        box(4, [5, 5, -1, 5]),
        box(5, [5, 5, 0, 5]),
        box(6, [5, 5, nan, 5]),
        box(7, [5, 5, "9", 5]),
        box(8, [200, 0, 9, 9]),
        box(9, [5, 5, 9]),
        box(10, [1, 1, 2, 2], category=8),
        box(11, [1, 1, 2, 2], image=99),
        box(1, [1, 1, 2, 2]),
    ]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}]
    put(tmp_path / "annotations/instances_val2017.json", {"categories": categories, "annotations": boxes})
    pictures(tmp_path / "val2017", "1.jpg")
    data = COCO(root=tmp_path, boxes=True, **loading)
    (test,), errors, others = read_and_count(data, "test")
    assert [(sample.id, *sample.captions) for sample in test] == [(2, "two"), (6, "six"), (7, "7")]
    assert test[0].boxes == ((1, 2, 4, 6), (90, 40, 100, 50), (0, 0, 9, 9))
    assert (test[0].box_labels, test[0].box_crowds) == ((0, 1, 0), (False, False, True))
    assert test[0].categories == (0, 1)
    assert errors == {
        "duplicate image id": 1, "duplicate annotation id": 2, "id is no whole number": 2, EMPTY: 2, BARE: 1,
        "null caption": 1, "not a file name": 1, "path outside the root": 1, "missing key": 1, "unknown category": 1,
    }  # fmt: skip
    assert others == {
        "annotation of an unknown image": 3, "box of no area": 2, "box is not four numbers": 2, "box outside the image": 1,
    }  # fmt: skip


def test_flickr(tmp_path: Path, loading: Loading) -> None:
    lines = [
        *("a.jpg#0\ta", "a.jpg#1\t \x1b[0m", "b.jpg#0\tb", "b.jpg#1\t ", "c.jpg#0\tc", "d.jpg#0\t", "ghost.jpg.1#0\tx"),
        *("no caption", "\tx", '"unclosed', "e.jpg,e", "../f.jpg#0\tf", "g.jpg#0\t ", ""),
    ]
    put(tmp_path / "c.txt", "\n".join(lines))
    for split, names in (("train", "a b d a ../f"), ("val", "c a"), ("test", "e g none")):
        put(tmp_path / f"{split}.txt", "\n".join(names.split()))
    pictures(tmp_path / "images", "a.jpg")
    splits = {split: f"{split}.txt" for split in ("train", "val", "test")}
    data = Flickr(root=tmp_path, captions_file="c.txt", images="images", splits=splits, **loading)
    (train, val, test), errors, others = read_and_count(data, "train", "val", "test")
    assert captions(train) == [("a", "\x1b[0m"), ("b",)]
    assert (captions(val), captions(test)) == ([("c",)], [("e",)])
    assert errors == {
        "malformed line": 3, "file listed twice": 1, "image in two splits": 1, "path outside the root": 1, EMPTY: 1, BARE: 1,
    }  # fmt: skip
    assert others == {EMPTY: 2, BARE: 1, "image in no split": 1}
    (tmp_path / "test.txt").unlink()
    data = Flickr(root=tmp_path, captions_file="c.txt", images="images", splits=splits, **loading)
    (_, _, test), errors, _ = read_and_count(data, "train", "val", "test")
    assert (test, errors["missing file"]) == ([], 1)


def test_flat_json(tmp_path: Path, loading: Loading) -> None:
    train = [
        {"image": "a.jpg", "caption": ["a", " "]},
        {"image": "a.jpg", "caption": "more"},
        {"image": "b.jpg", "caption": []},
        {"image": "c.jpg", "caption": 7},
        {"image": "/export/d.jpg", "caption": "d"},
        {"image": "../d.jpg", "caption": "d"},
        {"caption": "d"},
        {"image": "d.jpg"},
        {"image": "e.jpg", "caption": "false", "relation": "on", "label": 0},
        {"image": "f.jpg", "caption": "true", "relation": "on", "label": 1},
    ]
    put(tmp_path / "train.json", train)
    put(tmp_path / "val.json", [{"image": "a.jpg", "caption": "v"}, {"image": "v.jpg", "caption": "v"}])
    asked = {"question": "What?", "image": "q.jpg", "answer": "x"}
    test = [{**asked, "question_id": 1}, {**asked, "question_id": 1}, {**asked, "question_id": "seven"}]
    test += [{**asked, "question": " "}, {**asked, "answer": [1]}]
    test += [{**asked, "choices": ["x"], "correct_choice_idx": 3}, {**asked, "choices": [1]}]
    put(tmp_path / "test.json", test)
    files = {split: f"{split}.json" for split in ("train", "val", "test")}
    data = SalesforceJson(root=tmp_path, files=files, **loading)
    (train_, val, test_), errors, others = read_and_count(data, "train", "val", "test")
    assert (captions(train_), captions(val)) == ([("a", "more"), ("true",)], [("v",)])
    assert [(sample.sample, sample.answers) for sample in test_] == [(1, ("x",)), (4, ("1",)), (6, ("x",))]
    assert errors == {
        "caption is no text": 1, "path outside the root": 2, "missing key": 1, "neither caption nor question": 1,
        "image in two splits": 1, "duplicate question id": 1, "id is no whole number": 1, "question or answer is no text": 1,
        "unknown choice": 1,
    }  # fmt: skip
    assert others == {EMPTY: 1, BARE: 1, "caption false of its image": 1}
    mixed = SalesforceJson(root=tmp_path, files={"train": ["val.json", "test.json"]}, images={"vqa": "."}, **loading)
    assert read_and_count(mixed, "train")[1]["unknown data set"] == 6
    mixed = SalesforceJson(root=tmp_path, files={"train": ["val.json", "test.json"]}, **loading)
    assert read_and_count(mixed, "train")[1]["captions and questions mixed"] == 1


def test_visual_genome(tmp_path: Path, loading: Loading) -> None:
    def photo(number: Any, **changed: Any) -> dict[str, Any]:
        return {"image_id": number, "url": f"x/VG_100K/{number}.jpg", "width": 100, "height": 50, **changed}

    photos = [photo(1), photo(2), photo(2), photo(3, url="x/../3.jpg"), photo(4, url=None), photo(None), photo(5)]
    put(tmp_path / "image_data.json", [*photos, photo(6, width=0), photo(7)])

    def region(
        number: Any, phrase: Any = "p", x: Any = 1, y: Any = 1, width: Any = 9, height: Any = 9
    ) -> dict[str, Any]:
        return {"region_id": number, "phrase": phrase, "x": x, "y": y, "width": width, "height": height}

    regions = [
        *(region(1, "one "), region(2, "a cloud", y=-904, height=25), region(3, "edge", x=-2, y=-2, width=10)),
        *(region(4, width=0), region(5, height=-3), region(6, x=None), region(7, " "), region(8, 8)),
        *(
            region(1, "again"),
            region(None, "no id"),
            {"region_id": 9, "phrase": "no box"},
            region(10, width=float("inf")),
        ),
    ]
    told_of = [
        {"id": 1, "regions": regions},
        {"id": 2, "regions": []},
        {"id": 1, "regions": []},
        {"id": 9, "regions": []},
    ]
    told_of += [{"id": 5, "regions": "x"}, {"id": 6, "regions": [region(11)]}, {"regions": []}]
    put(tmp_path / "region_descriptions.json", told_of)
    (train,), errors, others = read_and_count(VisualGenome(root=tmp_path, crop=True, **loading), "train")
    assert [(sample.sample, sample.captions, sample.crop) for sample in train] == [
        (1, ("one",), (1, 1, 10, 10)), (3, ("edge",), (0, 0, 8, 7)),
    ]  # fmt: skip
    assert errors == {
        "duplicate image id": 2, "path outside the root": 1, "missing key": 5, "caption is no text": 1,
        "duplicate annotation id": 1, "unexpected structure": 1,
    }  # fmt: skip
    assert others == {
        "box of no area": 2, "box is not four numbers": 2, "box outside the image": 1, EMPTY: 1,
        "image without regions": 1, "annotation of an unknown image": 2,
    }  # fmt: skip
    pairs = [{"qa_id": 1, "question": "What?", "answer": "A."}, {"qa_id": 1, "question": "Who?", "answer": "B."}]
    pairs += [{"qa_id": 2, "question": " ", "answer": "A."}, {"qa_id": 3, "question": "Why?", "answer": "."}]
    pairs += [{"qa_id": 4, "question": "When?"}, {"question": "Where?", "answer": "x"}]
    put(tmp_path / "question_answers.json", [{"id": 1, "qas": pairs}, {"id": 7, "qas": []}])
    (train,), errors, others = read_and_count(VisualGenome(root=tmp_path, content="questions", **loading), "train")
    assert [(sample.question, sample.answers) for sample in train] == [("What?", ("a",))]
    assert (errors["duplicate annotation id"], errors["missing key"]) == (1, 4)
    assert others == {"empty question": 1, "empty answer": 1, "image without questions": 1}


def test_vqa_v2(tmp_path: Path, loading: Loading) -> None:
    asked = [{"question_id": i, "image_id": 1, "question": f"{i}?"} for i in range(8)]
    asked += [asked[0], {"question_id": 8, "question": "x"}, {"question_id": 9, "image_id": 1, "question": 9}]
    asked[1]["question"] = " "
    answers = [{"question_id": i, "answers": [{"answer": "yes"}], "multiple_choice_answer": "yes"} for i in range(10)]
    answers[2]["answers"], answers[3]["answers"] = [], ["yes"]  # type: ignore[assignment]
    del answers[4]["multiple_choice_answer"], answers[5]
    answers += [answers[0], {"question_id": 99, "answers": [], "multiple_choice_answer": "yes"}, {"answers": []}]
    for split in ("train", "val"):
        put(tmp_path / f"vqa/v2_OpenEnded_mscoco_{split}_questions.json", {"questions": asked})
        put(tmp_path / f"vqa/v2_mscoco_{split}_annotations.json", {"annotations": answers})
    put(tmp_path / "vqa/v2_OpenEnded_mscoco_test_questions.json", {"questions": asked[:3]})
    data = VQAv2(
        root=tmp_path, splits={split: split for split in ("train", "val", "test")}, min_answer_count=1, **loading
    )
    (train,), errors, others = read_and_count(data, "train")
    assert [sample.question for sample in train] == ["0?", "4?", "6?", "7?"]
    assert data.answer_names == ("yes",)
    assert errors == {
        "duplicate question id": 1, "duplicate annotation id": 2, "question without answers": 3, "missing key": 4,
    }  # fmt: skip
    assert others == {"annotation of an unknown question": 1, "empty question": 1}
    (val, test), errors, others = read_and_count(data, "val", "test")
    assert [sample.question for sample in val] == ["0?", "4?", "6?", "7?"]
    assert [sample.question for sample in test] == ["0?", "2?"]
    assert (errors["empty question"], others["no public answers"]) == (2, 3)
    put(tmp_path / "answers.json", '{"yes": 1}')
    data = VQAv2(root=tmp_path, splits={"train": "train"}, answer_vocabulary="answers.json", held_out=9, **loading)
    (train, val), errors, _ = read_and_count(data, "train", "val")
    assert (len(train), val) == (4, [])
    assert (errors["answers not numbered without gaps"], errors["too few images to hold out"]) == (1, 1)


def test_table(tmp_path: Path, loading: Loading) -> None:
    lines = [
        *(
            "image,caption,split,label",
            "a.jpg,a,train,x",
            "b.jpg, ,test,x",
            "a.jpg,a,test,x",
            "c.jpg,c,dev,x",
            "d.jpg,d,train",
        ),
        *(
            "e.jpg,e,e,train,x",
            "../f.jpg,f,train,x",
            "a.jpg,again,train,y",
            'g.jpg,"g"g,train,x',
            "h.jpg,h\u2028h,train,y",
        ),
    ]
    put(tmp_path / "t.csv", "\n".join(lines))
    pictures(tmp_path, "a.jpg")
    data = Table(root=tmp_path, table="t.csv", label="label", **loading)
    (train, val, test), errors, others = read_and_count(data, "train", "val", "test")
    assert captions(train) == [("a",), ("h h",)]
    assert (val, test, others) == ([], [], {})
    assert errors == {
        "missing key": 1, "unknown split": 1, "malformed line": 2, "path outside the root": 1, "image in two splits": 1,
        "image with two labels": 1, EMPTY: 1,
    }  # fmt: skip
    lines = [
        '{"image": "a.jpg", "caption": ["x", ""]}',
        "{",
        "[1]",
        '{"image": 7, "caption": "x"}',
        '{"image": "b.jpg"}',
    ]
    put(
        tmp_path / "t.jsonl",
        "\n".join([*lines, '{"image": "c.jpg", "caption": ""}', '{"image": "d.jpg", "caption": [7]}']),
    )
    (train,), errors, others = read_and_count(Table(root=tmp_path, table={"train": "t.jsonl"}, **loading), "train")
    assert captions(train) == [("x",)]
    assert errors == {
        "not valid JSON": 1, "unexpected structure": 1, "not a file name": 1, "missing key": 1, "caption is no text": 1,
    }  # fmt: skip
    assert others == {EMPTY: 2, BARE: 1}
    assert read_and_count(Table(root=tmp_path, table={"train": "t.xls"}, **loading), "train")[1] == {"not a table": 1}


def test_class_folders(tmp_path: Path, loading: Loading) -> None:
    pictures(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg")
    os.symlink(tmp_path.parent / "elsewhere.jpg", tmp_path / "train/a/2.jpg")
    put(tmp_path / "names.json", {"a": "cat"})
    splits = {"train": "train", "val": "val", "test": "test"}
    data = ClassFolders(root=tmp_path, splits=splits, class_names_file="names.json", **loading)
    (train, val, test), errors, others = read_and_count(data, "train", "val", "test")
    assert [sample.label for sample in train + val + test] == [0, 1, 0]
    assert data.class_names == ("cat", "b")
    assert errors == {"symbolic link out of the root": 1, "class without a name": 1, "missing file": 1}
    assert others == {"class without images": 3}, "b in test, and both in the val that is not there"
    assert read_and_count(ClassFolders(root=tmp_path, splits={"test": "none"}, **loading), "test")[1] == {
        "missing file": 2
    }


def test_scenes(tmp_path: Path, loading: Loading) -> None:
    data = Scenes(images={"train": 3, "restval": 1, "val": 2, "test": 2}, size=32, root=tmp_path, **loading)
    data.prepare_data()
    cloze = data.root / "cloze" / "val.json"
    kept = dict(list(json.loads(cloze.read_text()).items())[:1])
    put(cloze, kept)
    put(data.root / "also_true" / "test.json", "[")
    (train, val, test), errors, others = read_and_count(data, "train", "val", "test")
    assert (len(train), [sample.image.name for sample in val], test) == (4, list(kept), [])
    assert (errors, others) == ({"missing key": 3, "not valid JSON": 1}, {})


def test_what_cannot_be_read_is_an_error_each_time(tmp_path: Path, loading: Loading) -> None:
    """An error that someone caught does not leave empty data behind."""
    pictures(tmp_path, "a.jpg")
    put(tmp_path / "d.json", {"images": [{}]})
    put(tmp_path / "map.json", "[")
    put(tmp_path / "vqa/v2_OpenEnded_mscoco_train_questions.json", {"questions": []})
    put(tmp_path / "vqa/v2_mscoco_train_annotations.json", {"annotations": []})
    splits = dict.fromkeys(("train", "val", "test"), "d.json")
    whole = {**loading, "root": tmp_path}
    for data in (
        Karpathy(annotations="d.json", images=".", **whole),
        Flickr(captions_file="d.json", images=".", splits=splits, **whole),
        ClassFolders(splits={"train": "none"}, **whole),
        VQAv2(splits={"train": "train"}, answer_vocabulary="map.json", **whole),
        VisualGenome(answer_vocabulary="map.json", **whole),
        COCO(**whole),
        SalesforceJson(files={"train": "d.json"}, **whole),
        Table(table="d.json", **whole),
    ):
        for _ in range(2):
            with pytest.raises((DataError, FileNotFoundError)):
                data.samples("train")
