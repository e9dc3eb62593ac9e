"""A-OKVQA in its official form, made here: both ways to answer, its faults, its own metric by hand; OK-VQA is read as VQA v2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import yaml

from tests.datasets.test_vqa_v2 import TEN, write
from vlp.datasets.aokvqa import Aokvqa
from vlp.datasets.vqa_v2 import VQAv2
from vlp.launch.config.choices import options
from vlp.system.errors import UserError

Loading = dict[str, Any]


def question(name: str, image: int, **changed: Any) -> dict[str, Any]:
    return {
        "split": "val",
        "image_id": image,
        "question_id": name,
        "question": "What is in  the mouth?",
        "choices": ["toothpick", "food", "stick", "cigarette"],
        "correct_choice_idx": 3,
        "direct_answers": ["cigarette"] * 2 + ["Cigarette"] + ["cigar"] * 2 + ["smoke"] * 5,
        "difficult_direct_answer": False,
        "rationales": ["he smokes", "there is smoke", "it glows"],
    } | changed


def save(root: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (root / "aokvqa").mkdir(exist_ok=True)
    (root / f"{split}2017").mkdir(exist_ok=True)
    for row in rows:
        PIL.Image.new("RGB", (8, 8)).save(root / f"{split}2017" / f"{row['image_id']:012d}.jpg")
    (root / "aokvqa" / f"aokvqa_v1p0_{split}.json").write_text(json.dumps(rows))


def aokvqa(root: Path, loading: Loading, **changed: Any) -> Aokvqa:
    settings = {"splits": {"train": "train", "val": "val"}, "min_answer_count": 2}
    return Aokvqa(root=root, **{**loading, **settings, **changed})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path, "train", [question("22a", 1), question("22b", 2, direct_answers=["Cigar"] * 10)])
    save(tmp_path, "val", [question("22c", 3), question("22d", 3, difficult_direct_answer=True)])
    return tmp_path


def test_a_sample_has_choices_and_direct_answers(root: Path, loading: Loading) -> None:
    data = aokvqa(root, loading)
    first, difficult = data.split("val")
    assert (first.id, first.sample, first.question) == (3, 0, "What is in the mouth?")
    assert (first.choices[3], first.label, len(first.answers)) == ("cigarette", 3, 10)
    assert (difficult.answers, difficult.label) == ((), 3)  # evaluation leaves its direct answer out
    assert len(data.split("train")[1].answers) == 10
    assert data.answer_names == ("cigar",)  # the only answer of two questions
    assert data.result_row(difficult, "food") == {"question_id": "22d", "direct_answer": "food"}


def test_its_own_metric_by_hand(root: Path, loading: Loading) -> None:
    data = aokvqa(root, loading)
    first = data.split("val")[0]
    for answer, expected in (("cigar", 200 / 3), ("CIGARETTE", 100.0), ("Smoke", 100.0), ("the smoke", 0.0)):
        assert data.question_figures([(first, answer)])["direct_answer_accuracy"] == pytest.approx(expected)


def test_test_questions_have_neither_answers_nor_a_right_choice(root: Path, loading: Loading) -> None:
    hidden = {
        key: value for key, value in question("22e", 5).items() if key not in ("correct_choice_idx", "direct_answers")
    }
    save(root, "test", [hidden])
    (sample,) = aokvqa(root, loading, splits={"test": "test"}).split("test")
    assert (sample.answers, sample.label, len(sample.choices)) == ((), None, 4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"question_id": 7}, "expected texts question_id and question"),
        ({"question_id": "22c"}, "question_ids that are missing or not unique: 22c"),
        ({"choices": ["a", "a"]}, "expected choices, two different texts or more"),
        ({"correct_choice_idx": 4}, "correct_choice_idx=4 is no position in choices"),
        ({"direct_answers": []}, "expected direct_answers, a list of texts"),
    ],
)
def test_faults_are_one_sentence(root: Path, loading: Loading, change: dict[str, Any], sentence: str) -> None:
    save(root, "val", [question("22c", 3), question("22d", 3, **change)])
    with pytest.raises(UserError, match=sentence):
        aokvqa(root, loading).split("val")


def test_ok_vqa_is_read_as_vqa_v2(tmp_path: Path, loading: Loading) -> None:
    settings = yaml.safe_load(options("data")["okvqa"].read_text(encoding="utf-8"))
    write(tmp_path, "val2014", [(3, "What is it for?", TEN)])
    (tmp_path / "vqa").rename(tmp_path / "okvqa")
    for kind in ("questions", "annotations"):
        for file in (tmp_path / "okvqa").glob(f"*{kind}.json"):
            file.rename(file.with_name(file.name.removeprefix("v2_")))
    names = {key: settings[key] for key in ("questions", "annotations")}
    (sample,) = VQAv2(root=tmp_path, splits={"val": "val2014"}, **names, **loading).split("val")
    assert (sample.question, sample.answers) == ("What is it for?", tuple(TEN))
