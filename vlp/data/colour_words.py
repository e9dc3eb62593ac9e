"""Colour words of four languages: which colours a text names, and the text without them.

Masked sources show whether a translator uses the picture (Caglayan et al., arXiv:1903.08678): "a [v] dog" can only be
translated by one who sees the dog. The mark [v] is theirs.
"""

from __future__ import annotations

import functools
import re

from vlp.system.errors import UserError

MASKED_WORD = "[v]"
# of each colour, the beginnings of its words; ENDINGS may follow
STEMS = {
    "en": {
        "red": "red", "orange": "orange", "yellow": "yellow", "green": "green", "blue": "blue", "purple": "purple|violet",
        "pink": "pink", "white": "white", "gray": "gray|grey", "black": "black", "beige": "beige", "brown": "brown",
    },
    "de": {
        "red": "rot", "orange": "orange", "yellow": "gelb", "green": "grün", "blue": "blau", "purple": "violett|lila",
        "pink": "rosa|pink", "white": "weiß|weiss", "gray": "grau", "black": "schwarz", "beige": "beige", "brown": "braun",
    },
    "fr": {
        "red": "rouge", "orange": "orange", "yellow": "jaune", "green": "vert", "blue": "bleu", "purple": "violet|mauve",
        "pink": "rose", "white": "blanc", "gray": "gris", "black": "noir", "beige": "beige", "brown": "marron|brun",
    },
    "cs": {
        "red": "červen|rud", "orange": "oranžov", "yellow": "žlut", "green": "zelen", "blue": "modr", "purple": "fialov",
        "pink": "růžov", "white": "bíl", "gray": "šed", "black": "čern", "beige": "béžov", "brown": "hněd",
    },
}  # fmt: skip
ENDINGS = {
    "en": "",
    "de": "(?:farben|farbig)?(?:e[mnrs]?)?",
    "fr": "(?:te|he|e)?s?",
    "cs": "(?:ý|á|é|í|ou|ého|ému|ém|ým|ých|ými|ě|e|o)",
}


@functools.cache
def _pattern(language: str) -> re.Pattern[str]:
    if language not in STEMS:
        raise UserError(f"there are no colour words of the language {language!r}: choose from {', '.join(STEMS)}")
    named = "|".join(f"(?P<{colour}>(?:{stems}){ENDINGS[language]})" for colour, stems in STEMS[language].items())
    return re.compile(rf"(?<!\w)(?:{named})(?!\w)", re.IGNORECASE)


def named_colours(text: str, language: str) -> list[str]:
    """The colours that a text names, by their English words, in its order.  language: en, de, fr or cs.  Raises UserError for
    another one."""
    return [str(match.lastgroup) for match in _pattern(language).finditer(text)]


def mask_colours(text: str, language: str) -> str:
    """The text with [v] in place of each of its colour words."""
    return _pattern(language).sub(MASKED_WORD, text)
