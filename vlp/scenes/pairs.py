"""Pairs of a colour and a shape that are kept out of training, to measure what a model makes of combinations it never saw.

A pair is written "red star". Words that mean the same are the same pair: "red moons" is a red crescent.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from vlp.scenes.grammar import PLURALS, SYNONYMS
from vlp.scenes.scene import COLOURS, SHAPES
from vlp.system.errors import UserError

Pair = tuple[str, str]  # a colour and a shape


def _words_for(names: Collection[str], *, plural: bool) -> dict[str, str]:
    """From every word for one of these to the name itself."""
    singular = {word: name for name in names for word in SYNONYMS.get(name, (name,))}
    return singular | ({PLURALS.get(word, word + "s"): name for word, name in singular.items()} if plural else {})


COLOUR_WORDS = _words_for(COLOURS, plural=False)
SHAPE_WORDS = _words_for(SHAPES, plural=True)
_COLOUR, _SHAPE = "|".join(COLOUR_WORDS), "|".join(SHAPE_WORDS)
_ATTRIBUTE = re.compile(rf"\b({_COLOUR}) ({_SHAPE})\b", re.IGNORECASE)
_PREDICATE = re.compile(rf"\b({_SHAPE}) (?:is|are) ({_COLOUR})\b", re.IGNORECASE)


def all_pairs() -> list[Pair]:
    """By shape, in the order of the categories, and by colour."""
    return [(colour, shape) for shape in SHAPES for colour in COLOURS]


def parse_pairs(texts: Sequence[str], *, setting: str = "data.held_out_pairs") -> frozenset[Pair]:
    """Raises UserError for a text that is no colour with a shape."""
    pairs = set()
    for text in texts:
        colour, _, shape = str(text).partition(" ")
        if colour not in COLOUR_WORDS or shape not in SHAPE_WORDS:
            raise UserError(
                f"{setting}: {str(text)!r} is no colour and shape such as 'red star'; colours are {', '.join(COLOURS)}, "
                f"shapes {', '.join(SHAPES)}"
            )
        pairs.add((COLOUR_WORDS[colour], SHAPE_WORDS[shape]))
    return frozenset(pairs)


def named_pairs(text: str) -> frozenset[Pair]:
    """Those that a caption, phrase or question of the generated scenes says, as in "a red star" or "the star is red"."""
    named = {(colour.lower(), shape.lower()) for colour, shape in _ATTRIBUTE.findall(text)}
    named |= {(colour.lower(), shape.lower()) for shape, colour in _PREDICATE.findall(text)}
    return frozenset((COLOUR_WORDS[colour], SHAPE_WORDS[shape]) for colour, shape in named)
