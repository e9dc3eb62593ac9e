"""Texts of VCR: lists of words, in which a list of numbers stands for the objects of these numbers.

    ["Does", [2], "feel", "comfortable", "?"]    →    "Does Jordan feel comfortable?"

An object of the class of people has the name of its number, whoever it is, and any other the name of its class: a model without
boxes reads "the dog", and learns that Jordan is whom the third colour marks (`vlp.data.marks`). The names are those that both
women and men have, as in R2C and MERLOT; after the last of them they begin again with a number, "Riley 2", so that two
objects of a photo never share one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from vlp.data.issues import DataError
from vlp.structures import Tag

NAMES = (
    "Riley", "Casey", "Jordan", "Avery", "Jessie", "Jackie", "Jaime", "Peyton", "Kerry", "Jody", "Kendall", "Skyler",
    "Frankie", "Pat", "Quinn",
)  # fmt: skip
NOBODY = "someone"  # whom a number past the end of the objects means
EVERYONE = ("everyone", "everyones")  # as words, they mean all people
SPACED = {
    name.replace(" ", ""): name
    for name in (
        "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat", "baseball glove",
        "tennis racket", "wine glass", "hot dog", "potted plant", "dining table", "cell phone", "teddy bear",
        "hair drier", "hair dryer",
    )
}  # fmt: skip
CLOSING = frozenset(".,?!;:)]}%…")
OPENING = frozenset("([{$#")


def object_name(number: int, objects: Sequence[str], people: Collection[str]) -> str:
    """What a text calls an object.  objects: the classes of all, as the file has them.  people: classes that have names."""
    if number >= len(objects):
        return NOBODY
    if objects[number] not in people:
        return SPACED.get(objects[number], objects[number])
    turn, index = divmod(number, len(NAMES))
    return NAMES[index] if not turn else f"{NAMES[index]} {turn + 1}"


def write_text(
    tokens: Iterable[Any], objects: Sequence[str], people: Collection[str], *, text: int
) -> tuple[str, list[Tag]]:
    """The text, and each object that it names with where its name lies.  text: its number in `Sample.texts`.  Raises DataError
    for a token that is neither a word nor a list of numbers from 0 on."""
    written, tags, opened = "", list[Tag](), True
    for token in tokens:
        if isinstance(token, str):
            word = token.strip()
            if not word:
                continue
            written += ("" if opened or _joins(word, written) else " ") + word
            opened = word in OPENING
            continue
        numbers = _numbers(token)
        for position, number in enumerate(numbers):
            if position:
                written += " and " if position == len(numbers) - 1 else ", "
            elif not opened:
                written += " "
            start = len(written)
            written += object_name(number, objects, people)
            tags.append(Tag(text, start, len(written), (number,) if number < len(objects) else ()))
        opened = False
    return written, tags


def mentioned_objects(
    texts: Iterable[Iterable[Any]], objects: Sequence[str], people: Collection[str]
) -> tuple[int, ...]:
    """Those that any of the texts names, in their order; "everyone" means all people, and so does a question in which no text
    names any (R2C, `dataloaders/vcr.py`). Numbers past the end of the objects are none."""
    everyone = {number for number, name in enumerate(objects) if name in people}
    named: set[int] = set()
    for token in (token for tokens in texts for token in tokens):
        if not isinstance(token, str):
            named.update(number for number in _numbers(token) if number < len(objects))
        elif token.lower() in EVERYONE:
            named |= everyone
    return tuple(sorted(named or everyone))


def _joins(word: str, written: str) -> bool:
    """Whether a word is written without a space before it: punctuation, and the ends of "Riley's" and "doesn't"."""
    return bool(written) and (word[0] in CLOSING or word[0] in "'’" or word.lower() == "n't")


def _numbers(token: object) -> list[int]:
    if not isinstance(token, list) or not token or not all(_is_number(number) for number in token):
        message = f"{str(token)[:60]} is neither a word nor a list of the numbers of objects, from 0 on"
        raise DataError("tag is no list of numbers", message)
    return list(dict.fromkeys(token))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
