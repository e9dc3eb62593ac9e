from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.metrics.vqa_accuracy import summarise_accuracy, vqa_accuracy


@pytest.mark.parametrize(("equal", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_leaving_one_of_ten_out(equal: int, accuracy: float) -> None:
    answers = ["red"] * equal + ["blue"] * (9 - equal) + ["green"]
    assert vqa_accuracy("red", answers) == pytest.approx(accuracy)


def test_texts_are_normalised_only_where_the_answers_differ() -> None:
    assert vqa_accuracy("Yes", ["yes"] * 10) == 0
    assert vqa_accuracy(" yes\n", ["yes "] * 10) == 1
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["Yes"]) == 1
    assert vqa_accuracy("the two dogs", ["2 dogs"] * 2 + ["a cat"] * 8) == pytest.approx(0.6)


def test_one_answer_is_too_few() -> None:
    with pytest.raises(ValueError, match="answers of several people"):
        vqa_accuracy("yes", ["yes"])


def test_summary_by_type() -> None:
    figures = summarise_accuracy([1.0, 0.5, 0.0], ["yes/no", "other", "other"], ["is the", "what is", "what is"])
    assert figures == {
        "accuracy": 50.0,
        "accuracy_other": 25.0,
        "accuracy_yes_no": 100.0,
        "accuracy_question_is_the": 100.0,
        "accuracy_question_what_is": 25.0,
    }
    assert summarise_accuracy([1.0, 0.5]) == {"accuracy": 75.0}


def test_halves_are_rounded_up_as_in_python_2() -> None:
    assert summarise_accuracy([1.0] * 29 + [0.0] * 3) == {"accuracy": 90.63}  # exactly 90.625


def test_a_summary_of_nothing_and_of_unequal_lists_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one answered question"):
        summarise_accuracy([])
    with pytest.raises(ValueError, match="shorter"):
        summarise_accuracy([1.0, 0.0], ["other"])


def test_official_evaluation(shared: Path) -> None:
    folder = shared / "reference/metrics"
    expected = json.loads((folder / "vqa_expected.json").read_text())
    questions = json.loads((folder / "vqa_annotations.json").read_text())["annotations"]
    given = {row["question_id"]: row["answer"] for row in json.loads((folder / "vqa_results.json").read_text())}
    accuracies = [vqa_accuracy(given[q["question_id"]], [a["answer"] for a in q["answers"]]) for q in questions]
    for accuracy, question in zip(accuracies, questions, strict=True):
        assert 100 * accuracy == pytest.approx(expected["evalQA"][str(question["question_id"])], abs=1e-9)
    figures = summarise_accuracy(
        accuracies, [q["answer_type"] for q in questions], [q["question_type"] for q in questions]
    )
    official = expected["accuracy"]
    assert figures["accuracy"] == official["overall"]
    assert figures["accuracy_yes_no"] == official["perAnswerType"]["yes/no"]
    assert {figures[f"accuracy_{name}"] for name in ("number", "other")} == {72.0, 80.67}
    for name, value in official["perQuestionType"].items():
        assert figures[f"accuracy_question_{name.replace(' ', '_')}"] == value
