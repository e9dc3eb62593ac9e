"""Which words of a caption the picture decides: colours, shapes, textures, sizes and numbers for which no other word would
be true.

A word of a mention is taken out; if with any other word of its kind the mention would also name as many things of the
scene as it says, the picture does not decide, and the word is left alone. Synonyms of the right word are right as well.
In "a ? red circle" both a size and a texture would be right, so either is asked only where the other is said.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

from vlp.scenes.grammar import PLURALS, SYNONYMS, Caption, Mention
from vlp.scenes.scene import COLOURS, NUMBERS, SHAPES, SIZES, TEXTURES, Scene

KINDS = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "texture": tuple(TEXTURES), "size": tuple(SIZES)}

_OTHERS = {"size": {"texture", "colour"}, "texture": {"size", "colour"}}  # which words could stand in its place


@dataclass(frozen=True, kw_only=True)
class SceneBlank:
    """caption[start:end] is the word; `words` are all that would be right, itself included."""

    start: int
    end: int
    kind: str  # "number" or one of KINDS
    words: tuple[str, ...]


def find_blanks(scene: Scene, caption: Caption) -> list[SceneBlank]:
    found, start = [], 0
    for literal, slot, _, _ in string.Formatter().parse(caption.template):
        start += len(literal)
        if slot is None:
            continue
        name, _, part = slot.partition(".")
        mention = caption.mentions[int(name)]
        text = str(getattr(mention, part)) if part else str(mention)
        kinds = {"noun": ("shape",), "colour": ("colour",), "": ("number", *KINDS)}.get(part, ())
        found += [_blank(mention, kind, text, start) for kind in kinds if _is_decided(scene, mention, kind)]
        start += len(text)
    return found


def _blank(mention: Mention, kind: str, text: str, start: int) -> SceneBlank:
    word = _word_of(mention, kind)
    place = start + _find_word(text, word)
    return SceneBlank(start=place, end=place + len(word), kind=kind, words=tuple(_correct_words(mention, kind)))


def _word_of(mention: Mention, kind: str) -> str:
    if kind == "number":
        return NUMBERS[mention.number]
    if kind == "shape":
        return mention.noun
    return mention.words.get(kind) or mention.ending.split()[-1]


def _find_word(text: str, word: str) -> int:
    """Of a whole word; each stands once in a mention."""
    return f" {text} ".index(f" {word} ")


def _correct_words(mention: Mention, kind: str) -> Iterator[str]:
    if kind == "number":
        yield NUMBERS[mention.number]
        return
    if kind == "texture" and mention.ending:  # "with" is said already
        yield mention.ending.split()[-1]
        return
    for word in SYNONYMS.get(mention.attributes[kind], (mention.attributes[kind],)):
        yield word if kind != "shape" or mention.number == 1 else PLURALS.get(word, word + "s")


def _is_decided(scene: Scene, mention: Mention, kind: str) -> bool:
    if kind == "number":
        return mention.number > 1  # "a" and "an" are no numbers; how many things there are of a sort is in the picture
    if kind not in mention.attributes:
        return False
    others = set() if kind == "texture" and mention.ending else _OTHERS.get(kind, set())  # nothing else follows "with"
    if not others <= mention.attributes.keys():
        return False
    false = (word for word in KINDS[kind] if word != mention.attributes[kind])
    return not any(len(scene.matching(**mention.attributes | {kind: word})) == mention.number for word in false)
