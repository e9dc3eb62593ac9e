"""GQA in its official form, made here: questions, their faults, and its own figures by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from vlp.data.image_ids import GENOME_BASE
from vlp.datasets.gqa import Gqa
from vlp.system.errors import UserError

Loading = dict[str, Any]


def question(photo: str, text: str, answer: str | None, *, entailed: list[str], **changed: Any) -> dict[str, Any]:
    kinds = {"structural": "query", "semantic": "attr", "detailed": "directOf"}
    record = {"imageId": photo, "question": text, "fullAnswer": f"It is {answer}.", "isBalanced": True, "types": kinds}
    record |= {"entailed": entailed, "equivalent": [], "groups": {"global": None, "local": "x"}, "semantic": []}
    return record | ({} if answer is None else {"answer": answer}) | changed


VAL = {
    "05": question("2", "What  colour is it?", "red", entailed=["05", "06", "07"]),
    "06": question("2", "Is it red?", "yes", entailed=[], types={"structural": "verify"}),
    "07": question("2", "Is it blue?", "no", entailed=["06"], isBalanced=False),
    "08": question("n3", "Where is it?", "left", entailed=["05"]),
}


def write(root: Path, split: str, subset: str, content: dict[str, Any], *, parts: int = 0) -> None:
    (root / "images").mkdir(exist_ok=True, parents=True)
    (root / "questions").mkdir(exist_ok=True)
    for row in content.values():
        PIL.Image.new("RGB", (8, 8)).save(root / "images" / f"{row['imageId']}.jpg")
    path = root / "questions" / f"{split}_{subset}_questions.json"
    if not parts:
        path.write_text(json.dumps(content))
        return
    path.with_suffix("").mkdir()
    for part in range(parts):
        rows = dict(list(content.items())[part::parts])
        (path.with_suffix("") / f"{path.stem}_{part}.json").write_text(json.dumps(rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    train = {"0100": question("1", "Is it?", "yes", entailed=[]), "0101": question("1", "What?", "red", entailed=[])}
    write(tmp_path, "train", "all", train, parts=2)
    write(tmp_path, "val", "all", VAL)
    (tmp_path / "eval").mkdir()
    listed = {name: {"valid": ["red", "blue"], "plausible": ["red"]} for name in VAL}
    (tmp_path / "eval" / "val_choices.json").write_text(json.dumps(listed))
    return tmp_path


def gqa(root: Path, loading: Loading, **changed: Any) -> Gqa:
    return Gqa(root=root, **{**loading, "splits": {"train": "train", "val": "val"}, "subset": "all", **changed})


def test_a_sample_is_a_question_with_its_answer(root: Path, loading: Loading) -> None:
    data = gqa(root, loading)
    first, *_, last = data.split("val")
    assert (first.id, first.sample, first.question, first.answers) == (
        GENOME_BASE + 2,
        5,
        "What colour is it?",
        ("red",),
    )
    assert (first.answer_type, first.image) == ("query", root / "images" / "2.jpg")
    assert last.id != GENOME_BASE + 3
    assert [sample.sample for sample in data.split("train")] == [100, 101]  # of both parts
    assert data.answer_names == ("yes", "red")
    assert data.result_row(first, "blue") == {"questionId": "05", "prediction": "blue"}


def test_its_own_figures_by_hand(root: Path, loading: Loading) -> None:
    """05 is right, and of 06 and 07, which it entails, one is; 08 is right and entails 05; 07 is not balanced."""
    data = gqa(root, loading)
    samples = data.split("val")
    answers = ["red", "yes", "yes", "Left."]
    figures = data.question_figures(list(zip(samples, answers, strict=True)))
    assert figures["balanced_accuracy"] == 100.0
    assert figures["consistency"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert figures["validity"] == pytest.approx(100 / 3)
    assert figures["plausibility"] == pytest.approx(100 / 3)
    wrong = data.question_figures(list(zip(samples, ["blue", "no", "yes", "left"], strict=True)))
    assert wrong["balanced_accuracy"] == pytest.approx(100 / 3)
    assert wrong["consistency"] == 0.0  # of 08 alone, as 05 is wrong
    assert wrong["validity"] == pytest.approx(100 / 3)  # blue
    assert wrong["plausibility"] == 0.0


def test_what_cannot_be_known_is_no_figure(root: Path, loading: Loading) -> None:
    (root / "eval" / "val_choices.json").unlink()
    data = gqa(root, loading)
    samples = data.split("val")
    figures = data.question_figures([(samples[0], "red")])  # what it entails was not asked
    assert figures == {"balanced_accuracy": 100.0, "consistency": None, "validity": None, "plausibility": None}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"imageId": 7}, "expected digits as the id, and texts imageId and question"),
        ({"answer": None}, "expected a text answer"),
        ({"question": " "}, "empty question in evaluation data"),
        ({"entailed": [1]}, "entailed is no list of ids of questions"),
        ({"imageId": "../x"}, "leads out of"),
    ],
)
def test_faults_are_one_sentence(root: Path, loading: Loading, change: dict[str, Any], sentence: str) -> None:
    path = root / "questions" / "val_all_questions.json"
    path.write_text(json.dumps(VAL | {"08": VAL["08"] | change}))
    with pytest.raises(UserError, match=sentence):
        gqa(root, loading).split("val")


def test_settings(root: Path, loading: Loading) -> None:
    with pytest.raises(UserError, match=r"data\.subset=some: choose balanced or all"):
        gqa(root, loading, subset="some")
    write(root, "challenge", "all", {"9": question("9", "What?", None, entailed=[])})
    (sample,) = gqa(root, loading, splits={"test": "challenge"}).split("test")
    assert sample.answers == ()
