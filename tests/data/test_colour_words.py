from __future__ import annotations

import pytest

from vlp.data.colour_words import mask_colours, named_colours


def test_colours_of_four_languages() -> None:
    same = {
        "en": "A Black dog, a grey one and a covered stove in a blueish room by a violet door.",
        "de": "Ein schwarzer Hund, ein grauer und ein rotierender Ofen im Rotlicht vor einer violetten Tür.",
        "fr": "Un chien noir, un gris et un verre devant une porte violette.",
        "cs": "Černý pes, šedý a modrásek u fialových dveří.",
    }
    for language, text in same.items():
        assert named_colours(text, language) == ["black", "gray", "purple"], language


def test_endings_of_german() -> None:
    text = "rote rotes rotem roten roter rot orangefarbenen rosa weißen weisse gelblich"
    assert named_colours(text, "de") == ["red"] * 6 + ["orange", "pink", "white", "white"]


def test_masking_keeps_everything_else() -> None:
    assert mask_colours("A RED, white and blue flag.", "en") == "A [v], [v] and [v] flag."
    assert mask_colours("no colour", "en") == "no colour"


def test_an_unknown_language() -> None:
    with pytest.raises(ValueError, match="no colour words of the language 'it': choose from en, de, fr, cs"):
        named_colours("rosso", "it")
