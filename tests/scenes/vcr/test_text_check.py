"""The check finds what words give away, and nothing where they give nothing away."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from vlp.scenes.vcr.rows import write_row
from vlp.scenes.vcr.templates import TEMPLATES
from vlp.scenes.vcr.text_check import check_texts
from vlp.system.errors import UserError


def texts(count: int, split: str) -> list[dict[str, Any]]:
    """Questions without pictures: the words of templates alone, as `write_row` chooses and orders them."""
    rng, rows = random.Random(f"texts/{split}"), []
    for _ in range(count):
        draft = TEMPLATES[rng.choice(list(TEMPLATES))](rng)
        row: dict[str, Any] = {"question": draft.question}
        for kind, choices in (("answer", draft.answers), ("rationale", draft.rationales)):
            order = rng.sample(range(4), 4)
            row |= {f"{kind}_choices": [choices[number] for number in order], f"{kind}_label": order.index(0)}
        rows.append(row)
    return rows


def write(root: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    for split, of_split in rows.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_split))
    return root


def test_words_that_give_the_right_choice_away_are_found(tmp_path: Path) -> None:
    """The right answer shares a tag with the question, and the true rationale is the one that the others resemble most."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        rng = random.Random(split)
        rows[split] = []
        for _ in range(300):
            tags = rng.sample(range(8), 4)
            label = rng.randrange(4)
            colours = rng.sample(["red", "green", "blue", "gray", "pink"], 4)
            rationales = [
                [colour, "and", "red" if place == label else colours[label]] for place, colour in enumerate(colours)
            ]
            rows[split].append(
                {
                    "question": ["Who", "is", [tags[label]], "?"], "answer_choices": [[[tag]] for tag in tags],
                    "answer_label": label, "rationale_choices": rationales, "rationale_label": label,
                }
            )  # fmt: skip
    checked = check_texts(write(tmp_path, rows))
    assert checked.questions == 300
    assert checked.question_to_answer > 90
    assert checked.answer_to_rationale > 60


@pytest.mark.slow
def test_words_of_generated_questions_give_nothing_away(tmp_path: Path) -> None:
    rows = {
        split: [write_row(seed=0, split=split, index=index, size=64).official for index in range(count)]
        for split, count in (("train", 4000), ("test", 4000))
    }
    checked = check_texts(write(tmp_path, rows))
    assert 23 <= checked.question_to_answer <= 27
    assert 23 <= checked.answer_to_rationale <= 27


def test_templates_give_no_choice_away_by_their_words(tmp_path: Path) -> None:
    """With fewer questions and the same bounds as chance needs: three standard deviations."""
    checked = check_texts(write(tmp_path, {"train": texts(600, "train"), "test": texts(900, "test")}))
    bound = 3 * (25 * 75 / 900) ** 0.5
    assert abs(checked.question_to_answer - 25) < bound
    assert abs(checked.answer_to_rationale - 25) < bound


def test_what_cannot_be_checked_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl is missing"):
        check_texts(tmp_path)
    rows = texts(2, "train")
    without = [{key: value for key, value in row.items() if key != "answer_label"} for row in rows]
    with pytest.raises(UserError, match=r"test\.jsonl has questions without labels"):
        check_texts(write(tmp_path, {"train": rows, "test": without}))
