"""VQA v2: official files with their faults, real questions, the generated ones, and the batches that they make."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from tests.datasets.evaluation_batch import batch_of
from vlp.data.answers import frequent_answers, read_answer_vocabulary, soft_scores
from vlp.data.issues import Faults
from vlp.datasets.scenes import SceneQuestions, Scenes
from vlp.datasets.vqa_v2 import VQAv2

Loading = dict[str, Any]


def write(root: Path, split: str, asked: list[tuple[int, str, list[str]]], *, packed: bool = False) -> None:
    """Questions (image, text, answers) as official files; question n of an image has the id image · 1000 + n."""
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (root / "vqa").mkdir(exist_ok=True, parents=True)
    (root / split).mkdir(exist_ok=True)
    for image, text, answers in asked:
        PIL.Image.new("RGB", (8, 8), (image % 256, 0, 0)).save(root / split / f"COCO_{split}_{image:012d}.jpg")
        name = {"image_id": image, "question_id": image * 1000 + sum(q["image_id"] == image for q in questions)}
        questions.append(name | {"question": text})
        chosen = Counter(answers).most_common(1)[0][0]
        listed = [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(answers)]
        kinds = {"question_type": "what", "answer_type": "other", "multiple_choice_answer": chosen}
        annotations.append(name | kinds | {"answers": listed})
    for file, content in (
        (f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions}),
        (f"v2_mscoco_{split}_annotations.json", {"annotations": annotations}),
    ):
        text = json.dumps({"info": {}, **content})
        path = root / "vqa" / file
        if packed:
            path.with_name(f"{file}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)


TEN = ["red"] * 5 + ["Red."] + ["dark red"] * 3 + ["a crimson"]


def vqa(root: Path, loading: Loading, **changed: Any) -> VQAv2:
    settings = {"splits": {"train": "train2014", "val": "val2014"}, "min_answer_count": 1, "batch_size": 2}
    return VQAv2(root=root, **{**loading, **settings, **changed})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write(tmp_path, "train2014", [(1, "What  colour?", TEN), (1, "Is it?", ["yes"] * 10), (2, "Hm?", ["blue"] * 10)])
    write(tmp_path, "val2014", [(3, "What?", ["red", "green"] * 5)], packed=True)
    return tmp_path


def test_a_sample_is_a_question_with_all_that_is_told_of_it(small: Path, loading: Loading) -> None:
    first, second, _ = vqa(small, loading).split("train")
    assert (first.id, first.sample, first.question) == (1, 1000, "What colour?")
    assert first.answers == tuple(TEN)
    assert (first.question_type, first.answer_type, first.answer_weight) == ("what", "other", 1.0)
    assert (second.id, second.sample) == (1, 1001)
    assert first.image == second.image == small / "train2014" / "COCO_train2014_000000000001.jpg"


def test_a_training_batch_holds_distinct_answers_their_weights_and_soft_scores(small: Path, loading: Loading) -> None:
    data = vqa(small, loading)
    batch = batch_of(data, "train")
    assert batch.question is not None
    assert bytes(batch.question.ids[0][batch.question.ids[0] > 2].tolist()) == b"What colour?"
    assert batch.answer is not None
    assert batch.answer.ids.shape[:2] == (3, 4)
    assert batch.answer.mask.any(-1).tolist() == [[True] * 4, [True] + [False] * 3, [True] + [False] * 3]
    texts = [bytes(row[row > 2].tolist()).decode() for row in batch.answer.ids[0]]
    assert texts == ["red", "Red.", "dark red", "a crimson"]
    assert batch.answer_weight is not None
    torch.testing.assert_close(batch.answer_weight[0], torch.tensor([0.5, 0.1, 0.3, 0.1]))
    assert batch.answer_weight[1:].tolist() == [[1, 0, 0, 0]] * 2
    assert data.answer_names == ("red", "yes", "blue")
    torch.testing.assert_close(batch.scores, torch.eye(3))  # six of ten people said red, in two spellings
    assert batch.caption is None
    assert batch.raw is None


def test_an_evaluation_batch_holds_the_raw_samples(small: Path, loading: Loading) -> None:
    batch = batch_of(vqa(small, loading), "val")
    assert batch.raw is not None
    assert batch.raw[0].answers == ("red", "green") * 5
    assert batch.answer is None
    assert batch.scores is not None
    assert batch.scores.tolist() == [[1, 0, 0]]


def test_people_are_given_vilts_steps() -> None:
    for count, score in ((1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        assert soft_scores(["Yes."] * count + ["x"] * (10 - count), {"yes": 5}) == {5: pytest.approx(score)}
    assert soft_scores(["a cat"], {"cat": 0}) == {0: 1.0}, "one annotator's answer is right"
    assert soft_scores(["dog"], {"cat": 0}) == {}


def test_answers_are_counted_in_the_order_of_their_first_appearance() -> None:
    assert frequent_answers(["two", "Cat", "2", "cat.", "c"], at_least=2) == ("2", "cat")


def test_published_label_maps(tmp_path: Path, shared: Path) -> None:
    folder = shared / "data/vqa-v2-60k-subset"
    names = read_answer_vocabulary(folder / "trainval_label2ans.json")
    assert len(names) == 3129
    assert names == read_answer_vocabulary(folder / "trainval_ans2label.json")
    (tmp_path / "map.json").write_text('{"yes": 0, "no": 2}')
    with pytest.raises(ValueError, match="indices of 2 answers must be 0 to 1"):
        read_answer_vocabulary(tmp_path / "map.json")
    (tmp_path / "map.json").write_text('["yes", "yes"]')
    with pytest.raises(ValueError, match="more than once"):
        read_answer_vocabulary(tmp_path / "map.json")


def test_real_questions_about_photos(shared: Path, loading: Loading) -> None:
    root = shared / "data/coco-sample"
    data = VQAv2(root=root, splits={"train": "train2014"}, held_out=20, min_answer_count=2, **loading)
    train, val = list(data.split("train")), list(data.split("val"))
    assert len(train) + len(val) == 158
    assert len({s.id for s in val}) == 20
    assert not {s.id for s in val} & {s.id for s in train}, "a photo's questions are all held out, or none"
    assert all(len(sample.answers) == 10 for sample in train + val)
    assert data.answer_names is not None
    assert {"yes", "no"} <= set(data.answer_names)
    batch = batch_of(data, "val")
    assert batch.scores is not None
    assert batch.scores.unique().tolist() == pytest.approx([0, 0.3, 0.6, 0.9, 1])


def test_the_vocabulary_of_sixty_thousand_questions(shared: Path, loading: Loading) -> None:
    folder = shared / "data/vqa-v2-60k-subset"
    name = "v2_mscoco_train2014_annotations.train.json.gz"
    with gzip.open(folder / name) as stream:
        chosen = [record["multiple_choice_answer"] for record in json.load(stream)["annotations"]]
    names = frequent_answers(chosen, at_least=9)
    published = set(read_answer_vocabulary(folder / "trainval_label2ans.json"))
    assert 300 < len(names) < 3129
    assert sum(name in published for name in names) / len(names) > 0.99


@pytest.mark.slow
def test_sixty_thousand_real_questions_have_no_fault(shared: Path, loading: Loading) -> None:
    data = VQAv2(
        root=shared / "data/vqa-v2-60k-subset",
        questions="v2_OpenEnded_mscoco_train2014_questions.{split}.json",
        annotations="v2_mscoco_train2014_annotations.{split}.json",
        splits={"train": "train", "val": "valid", "test": "test"},
        answer_vocabulary="trainval_label2ans.json",
        **loading,
    )
    data.faults = Faults(collect=True)
    samples = {split: data.samples(split) for split in ("train", "val", "test")}
    assert [len(found) for found in samples.values()] == [48061, 8977, 2962]
    assert all(len(sample.answers) == 10 for found in samples.values() for sample in found)
    assert data.faults.issues == {}


def test_several_official_splits_and_test_without_answers(small: Path, loading: Loading) -> None:
    write(small, "test2015", [(9, "Where?", ["x"] * 10)])
    (small / "vqa/v2_mscoco_test2015_annotations.json").unlink()
    questions = small / "vqa/v2_OpenEnded_mscoco_test2015_questions.json"
    questions.rename(questions.with_name("v2_OpenEnded_mscoco_test-dev2015_questions.json"))
    splits = {"train": ["train2014", "val2014"], "val": None, "test": "test-dev2015"}
    data = vqa(small, loading, splits=splits, held_out=1)
    assert len(data.split("train")) + len(data.split("val")) == 4
    with pytest.warns(UserWarning, match="can be answered, not measured"):
        (sample,) = data.split("test")
    assert sample.answers == ()
    assert sample.image.parent.name == "test2015"
    batch = batch_of(data, "test")
    assert batch.question is not None
    assert batch.scores is None


def test_answers_outside_the_vocabulary(small: Path, loading: Loading) -> None:
    (small / "few.json").write_text('["blue"]')
    data = vqa(small, loading, answer_vocabulary="few.json")
    scores = batch_of(data, "train").scores
    assert scores is not None
    assert scores.tolist() == [[0], [0], [1]]
    data = vqa(small, loading, answer_vocabulary="few.json", in_vocabulary_only=True)
    assert [sample.question for sample in data.split("train")] == ["Hm?"]
    assert len(data.split("val")) == 1, "evaluation keeps every question"
    assert vqa(small, loading, min_answer_count=None).split("train")
    assert batch_of(vqa(small, loading, min_answer_count=None), "train").scores is None
    with pytest.raises(ValueError, match=r"no answer of toy is given 99 times: set data\.min_answer_count lower"):
        vqa(small, loading, min_answer_count=99).split("train")


def test_a_tokenizer_learns_questions_and_distinct_answers(small: Path, loading: Loading) -> None:
    assert list(vqa(small, loading).train_captions()) == [
        "What colour?", "red", "Red.", "dark red", "a crimson", "Is it?", "yes", "Hm?", "blue",
    ]  # fmt: skip


def test_the_fingerprint_covers_questions_and_answers(small: Path, tmp_path: Path, loading: Loading) -> None:
    before = vqa(small, loading).fingerprint("train")
    assert before == vqa(small, loading).fingerprint("train")
    write(small, "train2014", [(1, "What  colour?", TEN), (1, "Is it?", ["no"] * 10), (2, "Hm?", ["blue"] * 10)])
    assert vqa(small, loading).fingerprint("train") != before


def change(root: Path, file: str, key: str, edit: Any) -> None:
    path = root / "vqa" / file
    content = json.loads(path.read_text())
    edit(content[key])
    path.write_text(json.dumps(content))


QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"


@pytest.mark.parametrize(
    ("file", "key", "edit", "message"),
    [
        (QUESTIONS, "questions", lambda q: q.append(dict(q[0])), "question_ids that are not unique: 1000"),
        (QUESTIONS, "questions", lambda q: q[0].pop("image_id"), r"questions\[0\]: expected whole numbers"),
        (QUESTIONS, "questions", lambda q: q[0].update(question=3), r"questions\[0\]: expected .* text question"),
        (ANNOTATIONS, "annotations", lambda a: a.pop(), "1 questions have no answers there: 2000"),
        (ANNOTATIONS, "annotations", lambda a: a.append(dict(a[0])), "question_id is missing or not unique"),
        (ANNOTATIONS, "annotations", lambda a: a[1].update(answers=[]), "question 1001 needs answers"),
        (ANNOTATIONS, "annotations", lambda a: a[1].update(answers=["yes"]), "question 1001 needs answers"),
        (ANNOTATIONS, "annotations", lambda a: a[1].pop("multiple_choice_answer"), "without multiple_choice_answer"),
    ],
)
def test_files_with_faults(small: Path, loading: Loading, file: str, key: str, edit: Any, message: str) -> None:
    change(small, file, key, edit)
    with pytest.raises(ValueError, match=message):
        vqa(small, loading).split("train")


def test_faults_that_training_survives(small: Path, loading: Loading) -> None:
    change(small, QUESTIONS, "questions", lambda q: q[0].update(question=" \n"))
    change(small, QUESTIONS, "questions", lambda q: q.pop())
    with pytest.warns(UserWarning, match="answers to 1 unknown questions are left out: 2000"):
        assert [sample.question for sample in vqa(small, loading).split("train")] == ["Is it?"]
    with pytest.raises(ValueError, match=r"questions\[0\]: empty question in evaluation data"):
        vqa(small, loading, splits={"test": "train2014"}).split("test")
    (small / "vqa/v2_mscoco_val2014_annotations.json.gz").write_bytes(b"\x1f\x8b\x08 cut")
    with pytest.raises(ValueError, match="cannot be decompressed"):
        vqa(small, loading).split("val")


def test_wrong_settings_are_refused(small: Path, loading: Loading) -> None:
    with pytest.raises(ValueError, match=r"data\.splits\.val=null"):
        vqa(small, loading, held_out=1)
    with pytest.raises(ValueError, match="cannot hold out 2 of the 2 training images"):
        vqa(small, loading, splits={"train": "train2014"}, held_out=2).split("val")
    with pytest.raises(FileNotFoundError, match="the questions of toy is missing"):
        vqa(small, loading, splits={"train": "train2017"}).split("train")
    with pytest.raises(FileNotFoundError, match="images of toy are not on disk"):
        vqa(small, loading, images="{split}/{id}.jpg").split("train")


def test_questions_of_the_generated_scenes(tmp_path: Path, loading: Loading) -> None:
    scenes = {"images": {"train": 12, "val": 3, "test": 3}, "size": 32, "root": tmp_path}
    data = SceneQuestions(**scenes, **loading, min_answer_count=1)
    data.prepare_data()
    data.setup()
    captions = Scenes(**scenes, **loading)
    for split in ("train", "val", "test"):
        asked = list(data.split(split))
        assert {s.id for s in asked} == {s.id for s in captions.split(split)}
        assert {s.image for s in asked} == {s.image for s in captions.split(split)}
        assert all(len(set(s.answers)) == 1 and len(s.answers) == 10 for s in asked)
    assert data.answer_names is not None
    batch = next(iter(data.train_dataloader()))
    assert batch.scores is not None
    assert batch.scores.sum(1).tolist() == [1.0] * 4
    assert {s.answer_type for s in data.split("test")} == {"yes/no", "number", "other"}


def test_answers_may_be_numbers(tmp_path: Path, loading: Loading) -> None:
    numbers: list[Any] = [2] * 6 + [2.0] * 3 + ["two"]
    write(tmp_path, "train2014", [(1, "How many?", numbers)])
    data = vqa(tmp_path, loading, splits={"train": "train2014"})
    (sample,) = data.split("train")
    assert sample.answers == ("2",) * 9 + ("two",)
    assert data.answer_names == ("2",)
    (tmp_path / "map.json").write_text('["yes", 2, 0.5]')
    assert read_answer_vocabulary(tmp_path / "map.json") == ("yes", "2", "0.5")
    (tmp_path / "map.json").write_text('["yes", 2, "2"]')
    with pytest.raises(ValueError, match="some answers are listed more than once"):
        read_answer_vocabulary(tmp_path / "map.json")


def test_answers_to_a_question_about_another_image_are_refused(small: Path, loading: Loading) -> None:
    path = small / "vqa" / "v2_mscoco_train2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["image_id"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="question 1000 is about image 1, its annotation about 2"):
        vqa(small, loading).split("train")
