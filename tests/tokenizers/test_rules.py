"""A dialogue that is too long loses its beginning and keeps its question, with every cleaning."""

from __future__ import annotations

import dataclasses

import pytest

from tests.words import WordTokenizer
from vlp.system.errors import UserError
from vlp.tokenizers.cleaning import CLEANINGS

LONG = " ".join(["red", "green"] * 20 + ["what", "colour", "is", "the", "circle"])


def test_a_dialogue_is_cut_from_its_start_and_a_question_from_its_end() -> None:
    tokenizer = WordTokenizer()  # 16 tokens
    dialogue, question = tokenizer([LONG], kind="dialogue"), tokenizer([LONG], kind="question")
    assert dialogue.ids.shape == question.ids.shape == (1, 16)
    assert tokenizer.decode(dialogue.ids[0]).split() == LONG.split()[-14:]
    assert tokenizer.decode(question.ids[0]).split() == LONG.split()[:14]
    assert dialogue.ids[0, 0] == tokenizer.start_id
    assert dialogue.ids[0, -1] == tokenizer.end_id


def test_a_dialogue_that_fits_is_a_question() -> None:
    tokenizer = WordTokenizer()
    text = "what colour is the circle"
    assert tokenizer([text], kind="dialogue").ids.tolist() == tokenizer([text], kind="question").ids.tolist()


def test_without_truncation_it_is_an_error() -> None:
    rules = dataclasses.replace(WordTokenizer().rules, truncate=False)
    with pytest.raises(UserError, match="too many for context_length=16"):
        rules.encode([LONG], lambda texts: [[3] * len(text.split()) for text in texts], kind="dialogue")


@pytest.mark.parametrize("name", sorted(CLEANINGS))
def test_no_cleaning_takes_the_question_away(name: str) -> None:
    pytest.importorskip("ftfy")
    text = " ".join(["red"] * 80 + ["blue"])
    assert CLEANINGS[name](text, "dialogue").split()[-1] == "blue"
