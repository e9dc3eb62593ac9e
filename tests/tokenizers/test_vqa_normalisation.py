from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlp.tokenizers.vqa_normalisation import CONTRACTIONS, normalise_answer, normalise_words, remove_punctuation


@pytest.mark.parametrize(
    ("raw", "compared"),
    [
        ("The Dog.", "dog"),
        ("a", ""),
        ("", ""),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("left- or right-handed", "left or righthanded"),  # one space beside the mark deletes all of its kind
        ("1,000", "1000"),
        ("1,000-2", "10002"),
        ("10:30", "10:30"),
        ("$5.00", "$5.00"),
        ("st. louis", "st louis"),
        ("3.5.", "3.5"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("he's", "he's"),
        ("red\nblue", "red blue"),
        ("red-\nblue-green", "red bluegreen"),  # the line break counts as the space beside the mark
    ],
)
def test_answers_in_the_form_in_which_they_are_compared(raw: str, compared: str) -> None:
    assert normalise_answer(raw) == compared


def test_only_the_first_32_full_stops_go() -> None:
    assert remove_punctuation("." * 40) == "." * 8


def test_words_are_complete_once_their_apostrophe_is_back() -> None:
    wrong = {spelling for spelling, word in CONTRACTIONS.items() if CONTRACTIONS.get(word, word) != word}
    assert not wrong
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["y'allll"] == "y'all'll"
    ambiguous = {"ill", "hell", "shell", "well", "were", "wed", "id", "lets", "shes"}
    assert not CONTRACTIONS.keys() & ambiguous


def test_official_processing(shared: Path) -> None:
    cases = json.loads((shared / "reference/metrics/vqa_expected.json").read_text())["functions"]
    assert len(cases) > 100
    for case in cases:
        assert remove_punctuation(case["input"]) == case["processPunctuation"]
        assert normalise_words(case["input"]) == case["processDigitArticle"]
        assert normalise_answer(case["input"]) == case["both"]
