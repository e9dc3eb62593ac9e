"""How VQA's official evaluation normalises answers: punctuation first, then numbers, articles and contractions.

Antol et al., "VQA: Visual Question Answering", arXiv 1505.00468; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/
vqaEval.py, Python 2. Its errors are kept, since published figures contain them; each has a comment below. The copy in ALBEF
(vqaTools) tokenizes differently and gives other figures.
"""

from __future__ import annotations

import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # not the apostrophe, the colon or the dollar sign: these stay
ARTICLES = {"a", "an", "the"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"} | {
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"
}  # fmt: skip

# endings of words that people often type without one of their apostrophes
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "n't've": "could had might should would",
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'s": "he how somebody someone that there what when where who why",
    "'ve": "could might must not should they we what where who would you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'re": "there they what why you",
}
_OTHERS = ("ma'am", "o'clock", "'ow's'at", "'twas", "y'all")


def _contractions() -> dict[str, str]:
    """Each spelling without one of the apostrophes → the correct one: "couldnt've", "couldn'tve" → "couldn't've"."""
    correct = [f"{word}{ending}" for ending, words in _ENDINGS.items() for word in words.split()]
    spellings = {
        word[:index] + word[index + 1 :]: word
        for word in (*correct, *_OTHERS)
        for index, letter in enumerate(word)
        if letter == "'"
    }
    return spellings | {"somebody'd": "somebodyd"}  # reversed in the official table


# its "Im", "Ive" and "Id've" are left out: words are looked up in lower case, so they never apply
CONTRACTIONS = _contractions()

_NUMBER_WITH_COMMA = re.compile(r"[0-9],[0-9]")
_FULL_STOP = re.compile(r"\.(?![0-9])")  # "3.5" and ".5" keep theirs; "5.ft" does not
_MAX_FULL_STOPS = 32  # that are removed: the official code passes re.UNICODE, which is 32, as the count of re.sub


def trim_answer(text: str) -> str:
    """The only normalisation where all ten answers to a question are equal."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def remove_punctuation(text: str) -> str:
    """A mark with a space beside it anywhere in the text is deleted, any other becomes a space ("t-shirt" → "t shirt").

    If the text has a number like "1,000", every mark is deleted: "1,000-2" → "10002".
    """
    number = _NUMBER_WITH_COMMA.search(text)
    result = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if number or beside_space else " ")
    return _FULL_STOP.sub("", result, count=_MAX_FULL_STOPS)


def normalise_words(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, contractions with their apostrophes, single spaces."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise_answer(text: str) -> str:
    """The form in which answers are compared, empty for "a" or "?": "The two-way, St. Louis" → "2way st louis"."""
    return normalise_words(remove_punctuation(trim_answer(text)))
