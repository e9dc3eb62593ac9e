"""German captions of scenes: each English caption of vlp/scenes/grammar.py has one German sentence of the same structure.

What agrees: articles, adjectives and pronouns with the noun's gender, number and case; verbs with the number of their subject.
Cases are those that prepositions and verbs ask for: "links von einem roten Kreis" (dative), "es gibt einen roten Kreis"
(accusative), "weiter oben als ein roter Kreis" (nominative). Sentences begin in lower case, as the English ones do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vlp.scenes.grammar import Caption, Mention
from vlp.system.errors import UserError

Case = Literal["nominative", "accusative", "dative"]
Gender = Literal["m", "f", "n"]


@dataclass(frozen=True, kw_only=True)
class Noun:
    gender: Gender
    singular: str
    plural: str
    dative: str = ""  # of the singular, where it differs

    def form(self, number: int, case: Case) -> str:
        if number == 1:
            return self.dative or self.singular if case == "dative" else self.singular
        adds_n = case == "dative" and not self.plural.endswith("n")
        return self.plural + ("n" if adds_n else "")


NOUNS = {
    "circle": Noun(gender="m", singular="Kreis", plural="Kreise"),
    "disc": Noun(gender="f", singular="Scheibe", plural="Scheiben"),
    "square": Noun(gender="n", singular="Quadrat", plural="Quadrate"),
    "box": Noun(gender="n", singular="Kästchen", plural="Kästchen"),
    "triangle": Noun(gender="n", singular="Dreieck", plural="Dreiecke"),
    "star": Noun(gender="m", singular="Stern", plural="Sterne"),
    "heart": Noun(gender="n", singular="Herz", plural="Herzen", dative="Herzen"),
    "ring": Noun(gender="m", singular="Ring", plural="Ringe"),
    "hoop": Noun(gender="m", singular="Reifen", plural="Reifen"),
    "cross": Noun(gender="n", singular="Kreuz", plural="Kreuze"),
    "arrow": Noun(gender="m", singular="Pfeil", plural="Pfeile"),
    "crescent": Noun(gender="f", singular="Mondsichel", plural="Mondsicheln"),
    "moon": Noun(gender="m", singular="Mond", plural="Monde"),
}
# without endings; colours that German does not inflect (orange, rosa, beige) get -farben before a noun
ADJECTIVES = {
    "red": "rot", "orange": "orange", "yellow": "gelb", "green": "grün", "blue": "blau", "purple": "violett",
    "violet": "violett", "pink": "rosa", "white": "weiß", "gray": "grau", "black": "schwarz", "beige": "beige",
    "small": "klein", "little": "klein", "tiny": "winzig", "large": "groß", "big": "groß", "huge": "riesig",
    "plain": "einfarbig", "solid": "einfarbig", "striped": "gestreift", "stripy": "gestreift", "dotted": "gepunktet",
    "spotted": "getupft", "checked": "kariert", "checkered": "kariert",
}  # fmt: skip
UNINFLECTED = ("orange", "rosa", "beige")
ENDINGS = {"": "", " with stripes": " mit Streifen", " with dots": " mit Punkten", " with checks": " mit Karos"}
NUMBERS = {
    2: "zwei", 3: "drei", 4: "vier", 5: "fünf", 6: "sechs", 7: "sieben", 8: "acht", 9: "neun", 10: "zehn", 11: "elf", 12: "zwölf"
}  # fmt: skip
NUMBER_WORDS = {"two": "zwei", "three": "drei", "four": "vier"}
_ARTICLES = {  # and the ending of an adjective after it
    ("m", "nominative"): ("ein", "er"), ("m", "accusative"): ("einen", "en"), ("m", "dative"): ("einem", "en"),
    ("f", "nominative"): ("eine", "e"), ("f", "accusative"): ("eine", "e"), ("f", "dative"): ("einer", "en"),
    ("n", "nominative"): ("ein", "es"), ("n", "accusative"): ("ein", "es"), ("n", "dative"): ("einem", "en"),
}  # fmt: skip
_DEFINITE = {"m": "der", "f": "die", "n": "das"}
_PRONOUNS = {"nominative": {"m": "er", "f": "sie", "n": "es"}, "dative": {"m": "ihm", "f": "ihr", "n": "ihm"}}
_PLURAL_PRONOUNS = {"nominative": "sie", "dative": "ihnen"}
_PREPOSITIONS: dict[str, tuple[str, Case]] = {
    "to the left of": ("links von", "dative"), "left of": ("links neben", "dative"),
    "to the right of": ("rechts von", "dative"), "right of": ("rechts neben", "dative"),
    "above": ("über", "dative"), "over": ("oberhalb von", "dative"), "higher up than": ("weiter oben als", "nominative"),
    "below": ("unter", "dative"), "under": ("unterhalb von", "dative"), "lower down than": ("weiter unten als", "nominative"),
}  # fmt: skip
_OPENINGS: dict[str, tuple[str, Case]] = {
    "there {0.be}": ("es gibt", "accusative"), "a picture of": ("ein Bild von", "dative"),
    "an image with": ("ein Bild mit", "dative"), "we see": ("wir sehen", "accusative"),
}  # fmt: skip
_EDGES = {"at the top": "am oberen Rand", "at the bottom": "am unteren Rand", "on the left": "auf der linken Seite",
          "on the right": "auf der rechten Seite"}  # fmt: skip
_SIDES = {"top": "oben", "bottom": "unten", "left": "links", "right": "rechts"}
_GROUNDS = {
    "on a {} background": "auf einem {}en Hintergrund", "against a {} background": "vor einem {}en Hintergrund",
    "on a {} backdrop": "auf {}em Grund", "in front of a {} background": "vor {}em Hintergrund",
}  # fmt: skip
_LINKS = {"and": "und", "but": "aber"}
_LISTED = {"including": "darunter", "among them": "unter ihnen"}


def attributive(adjective: str, ending: str) -> str:
    return adjective + ("farben" if adjective in UNINFLECTED else "") + ending


def noun_phrase(mention: Mention, case: Case) -> str:
    """With "ein" or a number: "ein großer roter Kreis", "zwei rote Kreise mit Streifen"."""
    noun = NOUNS[mention.words["shape"]]
    if mention.number == 1:
        article, ending = _ARTICLES[noun.gender, case]
    else:
        article, ending = NUMBERS[mention.number], "en" if case == "dative" else "e"
    words = [mention.words[name] for name in ("size", "texture", "colour") if name in mention.words]
    adjectives = [attributive(ADJECTIVES[word], ending) for word in words]
    return " ".join([article, *adjectives, noun.form(mention.number, case)]) + ENDINGS[mention.ending]


def pronoun(mention: Mention, case: Case) -> str:
    if mention.number > 1:
        return _PLURAL_PRONOUNS[case]
    return _PRONOUNS[case][NOUNS[mention.words["shape"]].gender]


def _is(mention: Mention) -> str:
    return "ist" if mention.number == 1 else "sind"


def translate(caption: Caption) -> str:
    """Raises UserError for a caption of another grammar."""
    template, ground, front = _without_ground(caption)
    sentence = _translate_sentence(template, caption.mentions)
    if sentence is None:
        raise UserError(
            f"no German for the caption {str(caption)!r}: its template {template!r} is not of the default scenes"
        )
    if not ground:
        return sentence
    return f"{ground}, {sentence}" if front else f"{sentence} {ground}"


def _without_ground(caption: Caption) -> tuple[str, str, bool]:
    """The template without its background, the background in German, and whether it came first."""
    if not caption.background:
        return caption.template, "", False
    for english, german in _GROUNDS.items():
        said = english.format(caption.background)
        words = german.replace("{}", attributive(ADJECTIVES[caption.background], ""))
        if caption.template.startswith(f"{said}, "):
            return caption.template.removeprefix(f"{said}, "), words, True
        if caption.template.endswith(f" {said}"):
            return caption.template.removesuffix(f" {said}"), words, False
    return caption.template, "", False


def _translate_sentence(template: str, mentions: tuple[Mention, ...]) -> str | None:
    for write in (_spatial, _listing, _counting, _placing, _telling):
        sentence = write(template, mentions)
        if sentence is not None:
            return sentence
    return None


def _spatial(template: str, mentions: tuple[Mention, ...]) -> str | None:
    prepositions = "|".join(_PREPOSITIONS)
    forms = (
        r"\{0\}(?P<verb> \{0\.be\}| sit\{0\.s\})?",
        r"(?P<with>\{1\} with \{0\})",
        r"(?P<there>there \{0\.be\} \{0\})",
    )
    match = re.fullmatch(rf"(?:{'|'.join(forms)}) (?P<preposition>{prepositions}) \{{1(?:\.it)?\}}", template)
    if match is None:
        return None
    words, case = _PREPOSITIONS[match["preposition"]]
    first, second = mentions[:2]
    if match["with"]:
        return f"{noun_phrase(second, 'nominative')} mit {noun_phrase(first, 'dative')} {words} {pronoun(second, case)}"
    subject = f"es gibt {noun_phrase(first, 'accusative')}" if match["there"] else noun_phrase(first, "nominative")
    verb = ""
    if match["verb"]:
        verb = f" {_is(first)}" if "be" in match["verb"] else " liegt" if first.number == 1 else " liegen"
    return f"{subject}{verb} {words} {noun_phrase(second, case)}"


def _listing(template: str, mentions: tuple[Mention, ...]) -> str | None:
    for english, (german, case) in _OPENINGS.items():
        if re.fullmatch(re.escape(english) + r" \{0\}(?:, \{\d\})* and \{\d\}", template):
            names = [noun_phrase(mention, case) for mention in mentions]
            return f"{german} {', '.join(names[:-1])} und {names[-1]}"
    return None


def _counting(template: str, mentions: tuple[Mention, ...]) -> str | None:
    match = re.fullmatch(
        r"(?:(?P<shapes>\w+) shapes|a scene of (?P<objects>\w+) objects),(?: (?P<link>including|among them))? \{0\} and \{1\}",
        template,
    )
    if match is None:
        return None
    number = NUMBER_WORDS[match["shapes"] or match["objects"]]
    opening = f"{number} Formen" if match["shapes"] else f"eine Szene mit {number} Objekten"
    link = f" {_LISTED[match['link']]}" if match["link"] else ""
    first, second = (noun_phrase(mention, "nominative") for mention in mentions[:2])
    return f"{opening},{link} {first} und {second}"


def _placing(template: str, mentions: tuple[Mention, ...]) -> str | None:
    where = rf"(?P<where>in the (?P<v>\w+) (?P<h>\w+) corner|{'|'.join(_EDGES)})"
    first_form = re.fullmatch(rf"\{{0\}} {where} and \{{1\}} as well", template)
    second_form = re.fullmatch(rf"{where} \{{0\.be\}} \{{0\}}, and there \{{1\.be\}} \{{1\}}", template)
    match = first_form or second_form
    if match is None:
        return None
    words = f"in der Ecke {_SIDES[match['v']]} {_SIDES[match['h']]}" if match["v"] else _EDGES[match["where"]]
    first, second = mentions[:2]
    if first_form:
        return f"{noun_phrase(first, 'nominative')} {words} und auch {noun_phrase(second, 'nominative')}"
    return f"{words} {_is(first)} {noun_phrase(first, 'nominative')}, und es gibt {noun_phrase(second, 'accusative')}"


def _telling(template: str, mentions: tuple[Mention, ...]) -> str | None:
    """The colour is said of the noun: it has no ending then, and stands before the verb after "während"."""
    sides = [rf"the \{{{n}\.noun\}} \{{{n}\.be\}} \{{{n}\.colour\}}" for n in (0, 1)]
    match = re.fullmatch(rf"{sides[0]} (while|and|but) {sides[1]}", template)
    if match is None:
        return None
    subjects = [
        f"{_DEFINITE[NOUNS[m.words['shape']].gender] if m.number == 1 else 'die'} "
        f"{NOUNS[m.words['shape']].form(m.number, 'nominative')}"
        for m in mentions[:2]
    ]
    colours = [ADJECTIVES[mention.colour] for mention in mentions[:2]]
    first, second = mentions[:2]
    opening = f"{subjects[0]} {_is(first)} {colours[0]}"
    if match[1] == "while":
        return f"{opening}, während {subjects[1]} {colours[1]} {_is(second)}"
    comma = "," if match[1] == "but" else ""
    return f"{opening}{comma} {_LINKS[match[1]]} {subjects[1]} {_is(second)} {colours[1]}"
