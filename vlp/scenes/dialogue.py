"""Dialogues about a scene: eight or nine rounds in which most questions say "it" or "they" of what an earlier question named.

An opening question names one group of things, and the next ones are about it until another opening question; what they ask
differs between that group and another one of the scene wherever it can, so that the question alone does not decide the
answer. Each answer stands for facts, so the relevance of every other option is exact: the share of the answer's facts that
it says, and 0 where it says anything false.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlp.scenes.grammar import PLURALS
from vlp.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    NUMBERS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    side_of,
)

OPTIONS = 20  # of each question, the answer included
ROUNDS = (8, 9)
Facts = frozenset[tuple[str, str]]  # such as {("size", "small"), ("texture", "dotted")}


@dataclass(frozen=True, kw_only=True)
class Round:
    """options: OPTIONS different texts.  correct: the position of the answer.  relevance: of each option, from 0 to 1.
    group: that the question is about; None = about none.  pronoun: whether it says "it" or "they" for that group."""

    question: str  # in lower case, without "?"
    options: tuple[str, ...]
    correct: int
    relevance: tuple[float, ...]
    group: int | None
    pronoun: bool

    @property
    def answer(self) -> str:
        return self.options[self.correct]


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    caption: str
    rounds: tuple[Round, ...]


@dataclass(frozen=True)
class _Asked:
    """A question with the facts of its answer."""

    question: str
    facts: Facts
    group: int | None = None
    pronoun: bool = False


def _places() -> Iterator[tuple[str, Facts]]:
    for vertical in ("top", "bottom"):
        yield vertical, frozenset({("vertical", vertical)})
        for horizontal in ("left", "right"):
            yield f"{vertical} {horizontal}", frozenset({("vertical", vertical), ("horizontal", horizontal)})
    for horizontal in ("left", "right"):
        yield horizontal, frozenset({("horizontal", horizontal)})


def _answers() -> dict[str, Facts]:
    """Every answer that a dialogue may have, with its facts."""
    single = {
        "existence": ("yes", "no"), "number": NUMBERS[1:5], "colour": tuple(COLOURS), "shape": tuple(SHAPES),
        "texture": tuple(TEXTURES), "size": tuple(SIZES), "background": tuple(BACKGROUNDS),
    }  # fmt: skip
    answers: dict[str, Facts] = {word: frozenset({(kind, word)}) for kind, words in single.items() for word in words}
    answers |= dict(_places())
    answers |= {
        f"{size} and {texture}": frozenset({("size", size), ("texture", texture)})
        for size in SIZES
        for texture in TEXTURES
    }
    return answers


ANSWERS = _answers()
_TEXTS = {facts: text for text, facts in ANSWERS.items()}


def write_dialogue(rng: random.Random, scene: Scene) -> Dialogue:
    count = len(scene.things)
    caption = f"a picture of {NUMBERS[count]} shape{'s' if count > 1 else ''}"
    return Dialogue(caption=caption, rounds=tuple(_with_options(rng, scene, asked) for asked in _ask(rng, scene)))


def relevance(option: Facts, truth: Facts) -> float:
    """Of an answer that states the facts `option`: the share of the facts asked for that it states; 0 where it states another."""
    return len(option) / len(truth) if option <= truth else 0.0


def _ask(rng: random.Random, scene: Scene) -> list[_Asked]:
    """A segment for each group, in any order; what lacks to the number of rounds is asked before the first of them, about no
    group, as between two segments it would leave open what "it" is."""
    rounds, about_none = rng.choice(ROUNDS), _questions_about_none(rng, scene)
    order = rng.sample(range(len(scene.groups)), len(scene.groups))
    segments = [_segment(rng, scene, group) for group in order]
    at_most = rounds - (rng.random() < 0.4)
    while sum(map(len, segments)) > at_most:
        max(segments, key=len).pop()
    return [*about_none[: rounds - sum(map(len, segments))], *(asked for segment in segments for asked in segment)]


def _segment(rng: random.Random, scene: Scene, group: int) -> list[_Asked]:
    """The opening question and those about what it named: first, in any order, what differs from another group."""
    things, others = scene.groups[group], [other for i, other in enumerate(scene.groups) if i != group]
    opening, said = _opening(rng, scene, group)
    be, them = ("is", "it") if len(things) == 1 else ("are", "they")
    does = "does" if len(things) == 1 else "do"
    facts = _facts(things)
    unsaid = {name: fact for name, fact in facts.items() if name not in said}
    wordings: dict[frozenset[str], str] = {
        frozenset({"colour"}): f"what color {be} {them}",
        frozenset({"shape"}): f"what shape {be} {them}",
    }
    if {"vertical", "horizontal"} <= unsaid.keys():
        wordings[frozenset({"vertical", "horizontal"})] = f"where {be} {them}"
    else:
        wordings[frozenset({"horizontal"})] = f"which side {be} {them} on"
        wordings[frozenset({"vertical"})] = f"{be} {them} at the top or at the bottom"
    if rng.random() < 0.25:
        wordings[frozenset({"size", "texture"})] = f"what {does} {them} look like"
    else:
        wordings[frozenset({"texture"})] = f"what pattern {does} {them} have"
        wordings[frozenset({"size"})] = f"how big {be} {them}"
    deciding: list[_Asked] = []
    rest: list[_Asked] = []
    for names, question in wordings.items():
        if not names <= unsaid.keys():
            continue
        asked = _Asked(question, frozenset((name, unsaid[name]) for name in names), group, True)
        differs = any(_facts(other).get(name) != unsaid[name] for other in others for name in names)
        (deciding if differs else rest).append(asked)
    rng.shuffle(deciding)
    return [opening, *deciding, *rest]


def _facts(things: Sequence[Thing]) -> dict[str, str]:
    """What is true of all things of a group: one word for each kind of fact."""
    vertical, horizontal = side_of(things)
    thing = things[0]
    facts = {"colour": thing.colour, "shape": thing.shape, "texture": thing.texture, "size": thing.size}
    return facts | {name: word for name, word in (("vertical", vertical), ("horizontal", horizontal)) if word}


def _opening(rng: random.Random, scene: Scene, group: int) -> tuple[_Asked, set[str]]:
    """A question that names the group by what it alone is, and the kinds of facts that question and answer say."""
    things = scene.groups[group]
    thing, single = things[0], len(things) == 1
    plural = PLURALS.get(thing.shape, thing.shape + "s")
    noun = thing.shape if single else plural
    is_there = "is there a" if single else "are there any"
    yes: Facts = frozenset({("existence", "yes")})
    number: Facts = frozenset({("number", NUMBERS[len(things)])})
    found: list[tuple[_Asked, set[str]]] = []
    if len(scene.matching(shape=thing.shape)) == len(things):
        article = "n" if single and thing.shape[0] in "aeiou" else ""
        found.append((_Asked(f"{is_there}{article} {noun}", yes, group), {"shape"}))
        found.append((_Asked(f"how many {plural} are there", number, group), {"shape"}))
    if len(scene.matching(colour=thing.colour)) == len(things):
        found.append((_Asked(f"is there anything {thing.colour}", yes, group), {"colour"}))
        be = "is" if single else "are"
        noun = "object" if single else "objects"
        shape: Facts = frozenset({("shape", thing.shape)})
        found.append((_Asked(f"what {be} the {thing.colour} {noun}", shape, group), {"colour", "shape"}))
    if not found:
        article = "n" if single and thing.colour[0] in "aeiou" else ""
        noun = thing.shape if single else plural
        return _Asked(f"{is_there}{article} {thing.colour} {noun}", yes, group), {"colour", "shape"}
    return rng.choice(found)


def _questions_about_none(rng: random.Random, scene: Scene) -> list[_Asked]:
    """Five, in any order, that name nothing which the picture shows."""
    shapes = rng.sample([shape for shape in SHAPES if not scene.matching(shape=shape)], 2)
    colours = rng.sample([colour for colour in COLOURS if not scene.matching(colour=colour)], 2)
    no: Facts = frozenset({("existence", "no")})
    asked = [
        _Asked("what color is the background", frozenset({("background", scene.background)})),
        *(_Asked(f"do you see any {PLURALS.get(shape, shape + 's')}", no) for shape in shapes),
        *(_Asked(f"do you see anything {colour}", no) for colour in colours),
    ]
    return rng.sample(asked, len(asked))


def _with_options(rng: random.Random, scene: Scene, asked: _Asked) -> Round:
    """The answer, all answers of its own kinds, then those that are true of other groups, then others by lot."""
    answer = _TEXTS[asked.facts]
    kinds = {kind for kind, _ in asked.facts}
    near = [text for text, facts in ANSWERS.items() if {kind for kind, _ in facts} <= kinds]
    true = {fact for things in scene.groups for fact in _facts(things).items()}
    elsewhere = [text for text, facts in ANSWERS.items() if facts <= true]
    rest = list(ANSWERS)
    for texts in (near, elsewhere, rest):
        rng.shuffle(texts)
    options = list(dict.fromkeys([answer, *near, *elsewhere, *rest]))[:OPTIONS]
    rng.shuffle(options)
    return Round(
        question=asked.question,
        options=tuple(options),
        correct=options.index(answer),
        relevance=tuple(relevance(ANSWERS[text], asked.facts) for text in options),
        group=asked.group,
        pronoun=asked.pronoun,
    )
