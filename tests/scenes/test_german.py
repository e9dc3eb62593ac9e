"""German captions: agreement of every noun and adjective, every form of sentence, and the same colours as in English."""

from __future__ import annotations

import random

import pytest

from vlp.data.colour_words import named_colours
from vlp.scenes.german import ADJECTIVES, NOUNS, noun_phrase, pronoun, translate
from vlp.scenes.grammar import SYNONYMS, Caption, Form, Mention, write_captions
from vlp.scenes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, sample_scene


def mention(shape: str, *, number: int = 1, ending: str = "", **words: str) -> Mention:
    return Mention(number=number, attributes={}, words={"shape": shape, **words}, ending=ending)


def test_every_word_of_the_grammar_has_a_german_one() -> None:
    for shape in SHAPES:
        assert set(SYNONYMS.get(shape, (shape,))) <= NOUNS.keys()
    for word in (*COLOURS, *BACKGROUNDS, *SIZES, *TEXTURES):
        assert set(SYNONYMS.get(word, (word,))) <= ADJECTIVES.keys()


@pytest.mark.parametrize(
    ("shape", "number", "forms"),  # nominative, accusative, dative
    [
        ("circle", 1, ("ein roter Kreis", "einen roten Kreis", "einem roten Kreis")),
        ("disc", 1, ("eine rote Scheibe", "eine rote Scheibe", "einer roten Scheibe")),
        ("square", 1, ("ein rotes Quadrat", "ein rotes Quadrat", "einem roten Quadrat")),
        ("heart", 1, ("ein rotes Herz", "ein rotes Herz", "einem roten Herzen")),
        ("star", 2, ("zwei rote Sterne", "zwei rote Sterne", "zwei roten Sternen")),
        ("crescent", 3, ("drei rote Mondsicheln", "drei rote Mondsicheln", "drei roten Mondsicheln")),
        ("box", 2, ("zwei rote Kästchen", "zwei rote Kästchen", "zwei roten Kästchen")),
    ],
)
def test_gender_number_and_case(shape: str, number: int, forms: tuple[str, ...]) -> None:
    named = mention(shape, number=number, colour="red")
    assert tuple(noun_phrase(named, case) for case in ("nominative", "accusative", "dative")) == forms


def test_adjectives_in_order_and_those_without_endings() -> None:
    assert noun_phrase(mention("ring", size="huge", texture="spotted", colour="violet"), "accusative") == (
        "einen riesigen getupften violetten Ring"
    )
    assert noun_phrase(mention("arrow", number=2, colour="pink", ending=" with stripes"), "dative") == (
        "zwei rosafarbenen Pfeilen mit Streifen"
    )


def test_pronouns() -> None:
    assert [pronoun(mention(shape), "dative") for shape in ("circle", "disc", "square")] == ["ihm", "ihr", "ihm"]
    assert [pronoun(mention(shape), "nominative") for shape in ("circle", "disc", "square")] == ["er", "sie", "es"]
    assert pronoun(mention("disc", number=2), "dative") == "ihnen"


@pytest.mark.parametrize(
    ("template", "german"),
    [
        ("{0} higher up than {1}", "ein roter Kreis weiter oben als zwei blaue Scheiben"),
        ("{0} sit{0.s} left of {1}", "ein roter Kreis liegt links neben zwei blauen Scheiben"),
        ("{1} with {0} to the right of {1.it}", "zwei blaue Scheiben mit einem roten Kreis rechts von ihnen"),
        ("there {0.be} {0} under {1}", "es gibt einen roten Kreis unterhalb von zwei blauen Scheiben"),
        ("an image with {0} and {1}", "ein Bild mit einem roten Kreis und zwei blauen Scheiben"),
        (
            "a scene of three objects, including {0} and {1}",
            "eine Szene mit drei Objekten, darunter ein roter Kreis und zwei blaue Scheiben",
        ),
        ("three shapes, {0} and {1}", "drei Formen, ein roter Kreis und zwei blaue Scheiben"),
        ("{0} in the top left corner and {1} as well", "ein roter Kreis in der Ecke oben links und auch zwei blaue Scheiben"),
        (
            "on the right {0.be} {0}, and there {1.be} {1}",
            "auf der rechten Seite ist ein roter Kreis, und es gibt zwei blaue Scheiben",
        ),
        (
            "the {0.noun} {0.be} {0.colour} while the {1.noun} {1.be} {1.colour}",
            "der Kreis ist rot, während die Scheiben blau sind",
        ),
    ],
)  # fmt: skip
def test_each_form_of_sentence(template: str, german: str) -> None:
    mentions = (mention("circle", colour="red"), mention("disc", number=2, colour="blue"))
    assert translate(Caption(template=template, mentions=mentions)) == german


def test_backgrounds_before_and_behind() -> None:
    mentions = (mention("circle"), mention("star"))
    for template, german in (
        ("{0} above {1} on a beige background", "ein Kreis über einem Stern auf einem beigefarbenen Hintergrund"),
        ("in front of a white background, {0} above {1}", "vor weißem Hintergrund, ein Kreis über einem Stern"),
    ):
        background = "beige" if "beige" in template else "white"
        assert translate(Caption(template=template, mentions=mentions, background=background)) == german


def test_another_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match="no German for the caption"):
        translate(
            Caption(
                template="{0} hides behind {1}", mentions=(mention("circle"), mention("star")), form=Form(template="")
            )
        )


def test_every_caption_of_many_scenes_names_the_same_colours_in_the_same_order() -> None:
    for index in range(150):
        scene = sample_scene(seed=3, split="train", index=index)
        for caption in write_captions(random.Random(index), scene):
            assert named_colours(translate(caption), "de") == named_colours(str(caption), "en"), str(caption)
