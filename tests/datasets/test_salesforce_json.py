"""The JSON lists of ALBEF and BLIP in all their forms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.image_ids import FLICKR_BASE, GENOME_BASE
from vlp.datasets.salesforce_json import SalesforceJson

Loading = dict[str, Any]
COCO = "val2014/COCO_val2014_000000391895.jpg"


def flat(root: Path, loading: Loading, train: list[dict[str, Any]], **changed: Any) -> SalesforceJson:
    for folder in (".", "coco", "genome"):
        for name in (COCO, "a.jpg", "b.jpg", "VG_100K/2.jpg"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (8, 8)).save(root / folder / name)
    (root / "train.json").write_text(json.dumps(train))
    return SalesforceJson(root=root, **{**loading, "files": {"train": "train.json"}, "batch_size": 2, **changed})


def test_pre_training_rows_hold_one_caption_or_several(tmp_path: Path, loading: Loading) -> None:
    rows = [
        {"image": COCO, "caption": "one"},
        {"image": "VG_100K/2.jpg", "caption": ["two ", "  three\n", ""]},
        {"image": "a.jpg", "caption": "four"},
    ]
    samples = list(flat(tmp_path, loading, rows).split("train"))
    assert [sample.captions for sample in samples] == [("one",), ("two", "three"), ("four",)]
    assert [sample.id for sample in samples[:2]] == [391895, GENOME_BASE + 2]


def test_rows_of_one_image_are_joined(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": COCO, "caption": text, "image_id": "coco_391895"} for text in ("one", " ", "two")]
    (sample,) = flat(tmp_path, loading, rows).split("train")
    assert sample.captions == ("one", "two")


def test_several_files_a_split_and_packed_ones(tmp_path: Path, loading: Loading) -> None:
    (tmp_path / "more.json.gz").write_bytes(gzip.compress(json.dumps([{"image": "b.jpg", "caption": "b"}]).encode()))
    data = flat(tmp_path, loading, [{"image": "a.jpg", "caption": "a"}], files={"train": ["train.json", "more.json"]})
    assert [sample.captions for sample in data.split("train")] == [("a",), ("b",)]
    assert [sample.sample for sample in data.split("train")] == [0, 1]


VQA = [
    {"image": COCO, "question": "What?", "question_id": 7, "answer": ["red"] * 9 + ["blue"], "dataset": "vqa"},
    {"image": "VG_100K/2.jpg", "question": "Where?", "question_id": 8, "answer": "on it", "dataset": "vg"},
]


def test_questions_of_vqa_and_visual_genome(tmp_path: Path, loading: Loading) -> None:
    folders = {"vqa": "coco", "vg": "genome"}
    data = flat(tmp_path, loading, VQA, images=folders, answer_weights={"vg": 0.5})
    first, second = data.split("train")
    assert (first.image, second.image) == (tmp_path / "coco" / COCO, tmp_path / "genome" / "VG_100K/2.jpg")
    assert (first.id, first.sample, first.answer_weight) == (391895, 7, 1.0)
    assert (second.id, second.sample, second.answers) == (GENOME_BASE + 2, 8, ("on it",))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    order = batch.sample.tolist().index(7)
    assert batch.answer_weight is not None
    assert batch.answer_weight[order].tolist() == pytest.approx([0.9, 0.1])
    assert batch.answer_weight[1 - order].tolist() == [0.5, 0]
    with pytest.raises(ValueError, match=r"\[1\]: data.images has no folder for the dataset 'vg': vqa"):
        flat(tmp_path, loading, VQA, images={"vqa": "coco"}).split("train")


def test_the_shapes_of_lavis(tmp_path: Path, loading: Loading) -> None:
    """nocaps and NLVR2 hold neither captions nor questions."""
    asked = {"image": "a.jpg", "question": "What?"}
    rows = [
        {**asked, "question_id": 1, "answers": [{"answer": "yes", "answer_confidence": "maybe"}, {"answer": "no"}]},  # VizWiz
        {**asked, "question_id": "22MexNkBPpdZGX6sxbxVBH", "direct_answers": ["x", "y"], "choices": ["u", "x"],
         "correct_choice_idx": 1},  # A-OKVQA
        {**asked, "question_id": "201307251", "answer": "no", "fullAnswer": "No, it is not."},  # GQA
        {**asked, "question_id": 5, "choices": ["u"], "direct_answers": None},  # A-OKVQA's test
    ]  # fmt: skip
    samples = list(flat(tmp_path, loading, rows).split("train"))
    assert [sample.answers for sample in samples] == [("yes", "no"), ("x", "y"), ("no",), ()]
    assert [sample.sample for sample in samples] == [1, 1, 201307251, 3]
    assert [(sample.choices, sample.label) for sample in samples[1:]] == [(("u", "x"), 1), ((), None), (("u",), None)]
    textcaps = {"dataset_name": "textcaps", "data": [{"image_id": "a", "caption_str": "one", "caption_id": 7}]}
    (sample,) = flat(tmp_path, loading, textcaps).split("train")  # type: ignore[arg-type]
    assert (sample.image, sample.captions) == (tmp_path / "a.jpg", ("one",))
    by_id = {"7": {"image": "a.jpg", "caption": "one"}, "8": {"image": "b.jpg", "caption": "two"}}
    assert len(flat(tmp_path, loading, by_id).split("train")) == 2  # type: ignore[arg-type]
    vsr = [{"image": "a.jpg", "caption": "x", "relation": "on", "label": label} for label in (0, 1)]
    with pytest.warns(UserWarning, match=r"caption false of its image, 1 left out: \[0\]"):
        assert flat(tmp_path, loading, vsr).split("train")[0].captions == ("x",)
    for row in ({"images": ["a.jpg", "b.jpg"], "sentence": "x", "label": "True"}, {"image": "a.jpg", "img_id": 0}):
        with pytest.raises(ValueError, match="neither caption nor question"):
            flat(tmp_path, loading, [row]).split("train")


def test_lists_of_a_json_object_a_line(tmp_path: Path, loading: Loading) -> None:
    data = flat(tmp_path, loading, [], files={"train": "train.jsonl"})
    (tmp_path / "train.jsonl").write_text(
        '{"image": "a.jpg", "caption": "x"}\n\n{"image": "b.jpg", "caption": "y\u2028z"}\n'
    )
    assert [sample.captions for sample in data.split("train")] == [("x",), ("y z",)]
    data = flat(tmp_path, loading, [], files={"train": "train.jsonl"})
    (tmp_path / "train.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n{"image"')
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2: not valid JSON"):
        data.split("train")


def test_photos_of_flickr_are_known_by_their_names(tmp_path: Path, loading: Loading) -> None:
    name = "flickr30k-images/1000092795.jpg"
    (tmp_path / "flickr30k-images").mkdir()
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    (sample,) = flat(tmp_path, loading, [{"image": name, "caption": "x", "image_id": 0}]).split("train")
    assert sample.id == FLICKR_BASE + 1000092795


def test_test_questions_without_answers(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": "a.jpg", "question": "What?", "question_id": 1, "dataset": "vqa"}]
    data = flat(tmp_path, loading, rows, files={"test": "train.json"})
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.question is not None
    assert batch.raw is not None
    assert batch.raw[0].answers == ()
    with pytest.raises(ValueError, match="question_ids that are not unique: 1"):
        flat(tmp_path, loading, rows * 2, files={"test": "train.json"}).split("test")


def test_paths_of_the_machine_that_made_the_list(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": f"/export/share/coco/{COCO}", "caption": "x"}]
    with pytest.raises(ValueError, match=r"\[0\]: .* path of another machine: map its beginning with data\.prefixes"):
        flat(tmp_path, loading, rows).split("train")
    (sample,) = flat(tmp_path, loading, rows, prefixes={"/export/share/": ""}).split("train")
    assert sample.image == tmp_path / "coco" / COCO
    with pytest.raises(ValueError, match="leads out of"):
        flat(tmp_path, loading, [{"image": "../a.jpg", "caption": "x"}]).split("train")


def test_held_out_images(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": name, "caption": name} for name in ("a.jpg", "b.jpg", COCO)]
    data = flat(tmp_path, loading, rows, held_out=1)
    assert (len(data.split("train")), len(data.split("val")), len(data.split("test"))) == (2, 1, 0)
    with pytest.raises(ValueError, match=r"data\.files\.val=null"):
        flat(tmp_path, loading, rows, held_out=1, files={"train": "train.json", "val": "train.json"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "a.jpg"}], r"train\.json: \[0\]: neither caption nor question"),
        ([{"caption": "x"}], r"\[0\]: no image in it"),
        ([{"image": "a.jpg", "caption": 7}], r"\[0\]: a caption must be a text, not int"),
        ([{"image": "a.jpg", "caption": "x"}, *VQA], "hold captions and questions: make two data sources"),
        ([{**VQA[0], "question": " "}], r"\[0\]: expected a text question"),
        ([{**VQA[0], "answer": [[1]]}], r"\[0\]: expected a text question and an answer"),
        ([{**VQA[0], "question_id": "seven"}], "question_id must be an integer from 0 on, not 'seven'"),
        ({"a": 1}, "expected a list of objects"),
        ({"data": [1]}, "expected a list of objects"),
    ],
)
def test_lists_with_faults(tmp_path: Path, loading: Loading, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flat(tmp_path, loading, rows).split("train")


def test_evaluation_data_may_not_lose_a_caption_or_share_an_image(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": "a.jpg", "caption": ["x", ""]}]
    with pytest.raises(ValueError, match="empty caption in evaluation data"):
        flat(tmp_path, loading, rows, files={"test": "train.json"}).split("test")
    data = flat(
        tmp_path, loading, [{"image": "a.jpg", "caption": "x"}], files={"train": "train.json", "val": "train.json"}
    )
    data.split("train")
    with pytest.raises(ValueError, match="1 images are in train and in val"):
        data.split("val")


def test_a_photo_of_two_lists_has_one_id(tmp_path: Path, loading: dict[str, Any]) -> None:
    """Visual Genome calls photos by numbers of its own; its image_data tells which of them are COCO's."""
    rows = [
        {"image": "train2014/COCO_train2014_000000000123.jpg", "caption": "a cat"},
        {"image": "VG_100K/7.jpg", "caption": "the cat's ear"},
        {"image": "VG_100K_2/8.jpg", "caption": "a road"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    photos = [{"image_id": 7, "coco_id": 123, "flickr_id": 1}, {"image_id": 8, "coco_id": None, "flickr_id": None}]
    (tmp_path / "image_data.json").write_text(json.dumps(photos))
    files = {"train": "list.json", "val": None, "test": None}
    apart = SalesforceJson(**{**loading, "root": tmp_path, "files": files}).samples("train")
    joined = SalesforceJson(**{**loading, "root": tmp_path, "files": files, "image_data": "image_data.json"}).samples(
        "train"
    )
    assert len({sample.id for sample in apart}) == 3
    assert [sample.id for sample in joined] == [123, 123, apart[2].id]


SENTENCES = [
    {"image": "1000092795.jpg", "sentence": "Two  men.", "label": "entailment"},
    {"image": "1000092795.jpg", "sentence": "A dog.", "label": "contradiction"},
    {"image": "10002456.jpg", "sentence": "Friends.", "label": "neutral"},
]


def test_sentences_of_visual_entailment(tmp_path: Path, loading: Loading) -> None:
    for name in ("1000092795.jpg", "10002456.jpg"):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    data = flat(tmp_path, loading, SENTENCES, batch_size=3)
    samples = list(data.split("train"))
    assert data.class_names == ("entailment", "neutral", "contradiction")
    assert [(sample.question, sample.label) for sample in samples] == [("Two men.", 0), ("A dog.", 2), ("Friends.", 1)]
    assert [sample.id for sample in samples] == [FLICKR_BASE + 1000092795] * 2 + [FLICKR_BASE + 10002456]
    assert not any(sample.captions for sample in samples), "a sentence may be false of its image"
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.caption is None
    assert batch.label is not None
    assert sorted(batch.label.tolist()) == [0, 1, 2]
    official = [
        {"Flickr30K_ID": row["image"].removesuffix(".jpg"), "sentence1": "a premise", "sentence2": row["sentence"],
         "gold_label": row["label"], "pairID": f"{number}#0"}
        for number, row in enumerate(SENTENCES)
    ]  # fmt: skip
    (tmp_path / "snli_ve.jsonl").write_text("\n".join(map(json.dumps, [*official, {**official[0], "gold_label": "-"}])))
    lines = list(flat(tmp_path, loading, [], files={"train": "snli_ve.jsonl"}).split("train"))
    assert lines[:3] == samples
    assert lines[3].label is None
    for wrong, message in (
        ({"label": "maybe"}, "'maybe' is no class of visual entailment"),
        ({"sentence": 7}, "a sentence"),
    ):
        with pytest.raises(ValueError, match=rf"\[0\]: .*{message}"):
            flat(tmp_path, loading, [{**SENTENCES[0], **wrong}]).split("train")


def test_questions_without_an_id_are_numbered_over_all_files(tmp_path: Path, loading: Loading) -> None:
    (tmp_path / "more.json").write_text(json.dumps(SENTENCES[:1]))
    for row in SENTENCES:
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / row["image"])
    data = flat(tmp_path, loading, SENTENCES[:2], files={"test": ["train.json", "more.json"]})
    assert [sample.sample for sample in data.split("test")] == [0, 1, 2]


def test_answers_may_be_numbers(tmp_path: Path, loading: Loading) -> None:
    answers: list[Any] = [2, 0.5, 3.0, [2, "two", 2.0], [{"answer": 4}, {"answer": "four"}]]
    rows = [{"image": "a.jpg", "question": "How many?", "answer": answer} for answer in answers]
    rows += [
        {"image": "a.jpg", "question": "Which?", "direct_answers": [7], "choices": [7, "8"], "correct_choice_idx": 0}
    ]
    samples = list(flat(tmp_path, loading, rows).split("train"))
    assert [sample.answers for sample in samples] == [
        ("2",),
        ("0.5",),
        ("3",),
        ("2", "two", "2"),
        ("4", "four"),
        ("7",),
    ]
    assert samples[5].choices == ("7", "8")
    for answer in (True, float("nan"), {"text": "x"}, [None]):
        with pytest.raises(ValueError, match="expected a text question and an answer that is a text, a number"):
            flat(tmp_path, loading, [{"image": "a.jpg", "question": "How many?", "answer": answer}]).split("train")


def test_a_null_caption_is_counted(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": "a.jpg", "caption": None}, {"image": "b.jpg", "caption": ["x", None]}]
    with pytest.warns(UserWarning, match=r"null caption, 2 left out: \[0\], \[1\]"):
        assert [sample.captions for sample in flat(tmp_path, loading, rows).split("train")] == [("x",)]


def test_absolute_paths_inside_the_root(tmp_path: Path, loading: Loading) -> None:
    rows = [{"image": str(tmp_path / "coco" / COCO), "caption": "x"}, {"image": COCO, "caption": "y"}]
    (sample,) = flat(tmp_path, loading, rows, images="coco").split("train")
    assert (sample.image, sample.captions) == (tmp_path / "coco" / COCO, ("x", "y"))
