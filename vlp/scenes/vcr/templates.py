"""Questions of two facts about things of a scene, written before the scene: words decide nothing, the picture everything.

Each template draws what is true uniformly among equals, and offers as the other choices what could have been true instead, drawn
from the same equals. So given all words and tags of a question, each of its four answers is right, and each of its four rationales
true, in one case of four: no reader of texts can score above 25 % (real data leak here: Ye & Kovashka, "A case study of the
shortcut effects in visual commonsense reasoning", AAAI 2021). All four rationales name the same things and properties, and follow
from the question and its right answer alike; one is true. The scene is then made so that just these choices hold.

    match      Who has the color of A?                                      C has.
                                                    A is red and C is red.
    common     What do A and B have in common?                              Only the color.
                                                    A is a red ring and B is a red cross.
    compare    Compared with B, what are the size and color of A?           Larger and of the same color.
                                                    A is large and red and B is small and red.
    where      Where is A, seen from B?                                     Higher and to the left.
                                                    A is at the top left and B is at the middle right.

`match` and `compare` ask for colours and for shapes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import Any

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("ring", "square", "triangle", "cross")
SIZES = ("large", "small")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
WORDS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
NOUNS = {"colour": "color", "shape": "shape"}

Token = str | list[int]  # a word, or the things that are meant: as VCR writes its texts
Tokens = list[Token]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a thing must be; None = anything."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    cell: tuple[int, int] | None = None  # row and column


def spec_of(name: str, word: str) -> Spec:
    """A thing of which one property is given."""
    given: dict[str, Any] = {name: word}
    return Spec(**given)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A question whose tags count `things`.  answers, rationales: the right one comes first.  properties: that rationales name.
    about: the two things of the right answer.  decoys: things that make a wrong rationale true of others, as far as there is room.
    """

    kind: str
    properties: tuple[str, ...]
    about: tuple[int, int]
    question: Tokens
    answers: list[Tokens]
    rationales: list[Tokens]
    things: list[Spec]
    decoys: list[Spec] = field(default_factory=list)


def describe(properties: Sequence[str], spec: Spec) -> list[str]:
    """What follows "is": such as "red", "large and red", "a red ring", "at the top left"."""
    if "cell" in properties:
        assert spec.cell is not None
        return ["at", "the", ROWS[spec.cell[0]], COLUMNS[spec.cell[1]]]
    words = [str(getattr(spec, name)) for name in ("size", "colour", "shape") if name in properties]
    if "shape" in properties:
        return ["a", *words]
    return [words[0], "and", words[1]] if len(words) == 2 else words


def describe_fully(spec: Spec) -> list[str]:
    """What follows the name of a complete thing: "is a large red ring at the top left."."""
    return ["is", *describe(("size", "colour", "shape"), spec), *describe(("cell",), spec), "."]


def state(properties: Sequence[str], first: tuple[int, Spec], second: tuple[int, Spec]) -> Tokens:
    """That two things have these properties, as a sentence."""
    (one, its), (other, others) = first, second
    return [[one], "is", *describe(properties, its), "and", [other], "is", *describe(properties, others), "."]


def write_match(rng: random.Random, name: str) -> Draft:
    """Which of four things has the colour (or shape) of another?  Two of the others share one too, so that a picture without names
    does not say which is meant."""
    value, pair, single = rng.sample(WORDS[name], 3)
    values = [value, value, pair, pair, single]
    order = [1, 2, 3, 4]
    rng.shuffle(order)  # of the candidates; the right one is first in `values`
    things = [spec_of(name, value)] + [Spec()] * 4
    for position, candidate in enumerate(order, start=1):
        things[candidate] = spec_of(name, values[position])
    others = [word for word in WORDS[name] if word != value]
    rng.shuffle(others)
    stated = [spec_of(name, word) for word in [value, *others]]
    return Draft(
        kind=f"match {name}",
        properties=(name,),
        about=(0, order[0]),
        question=["Who", "has", "the", NOUNS[name], "of", [0], "?"],
        answers=[[[candidate], "has", "."] for candidate in order],
        rationales=[state((name,), (0, spec), (order[0], spec)) for spec in stated],
        things=things,
    )


def write_common(rng: random.Random) -> Draft:
    kinds = list(product((True, False), (True, False)))  # whether the colour is the same, and the shape
    rng.shuffle(kinds)
    phrases: dict[tuple[bool, bool], Tokens] = {
        (True, True): ["Both", "the", "color", "and", "the", "shape", "."],
        (True, False): ["Only", "the", "color", "."],
        (False, True): ["Only", "the", "shape", "."],
        (False, False): ["Nothing", "."],
    }
    looks = [Spec(colour=colour, shape=shape) for colour, shape in product(COLOURS, SHAPES)]
    fitting = [
        (a, b) for a, b in product(looks, looks) if (a.colour == b.colour, a.shape == b.shape) == kinds[0]
    ]  # fmt: skip
    return _write_pair(
        "common", ["What", "do", [0, 1], "have", "in", "common", "?"], [phrases[kind] for kind in kinds],
        ("colour", "shape"), rng.sample(fitting, 4),
    )  # fmt: skip


def write_compare(rng: random.Random, name: str) -> Draft:
    kinds = list(product((True, False), (True, False)))  # whether the first is larger, and of the same colour (shape)
    rng.shuffle(kinds)
    larger, same = kinds[0]
    sizes = ("large", "small") if larger else ("small", "large")
    fitting = [
        (replace(spec_of(name, a), size=sizes[0]), replace(spec_of(name, b), size=sizes[1]))
        for a, b in product(WORDS[name], WORDS[name])
        if (a == b) == same
    ]
    noun = NOUNS[name]
    question: Tokens = ["Compared", "with", [1], ",", "what", "are", "the", "size", "and", noun, "of", [0], "?"]
    answers: list[Tokens] = [
        ["Larger" if larger else "Smaller", "and", "of", *(("the", "same") if same else ("another",)), noun, "."]
        for larger, same in kinds
    ]
    return _write_pair(f"compare {name}", question, answers, ("size", name), rng.sample(fitting, 4))


def write_where(rng: random.Random) -> Draft:
    kinds = list(product((True, False), (True, False)))  # whether the first is higher, and to the left
    rng.shuffle(kinds)
    higher, left = kinds[0]
    cells = list(product(range(3), range(3)))
    fitting = [
        (Spec(cell=a), Spec(cell=b))
        for a, b in permutations(cells, 2)
        if a[0] != b[0] and a[1] != b[1] and (a[0] < b[0], a[1] < b[1]) == (higher, left)
    ]
    answers: list[Tokens] = [
        ["Higher" if higher else "Lower", "and", "to", "the", "left" if left else "right", "."]
        for higher, left in kinds
    ]
    question: Tokens = ["Where", "is", [0], ",", "seen", "from", [1], "?"]
    return _write_pair("where", question, answers, ("cell",), rng.sample(fitting, 4))


def _write_pair(
    kind: str,
    question: Tokens,
    answers: list[Tokens],
    properties: tuple[str, ...],
    stated: list[tuple[Spec, Spec]],
) -> Draft:
    """stated: what each rationale says of both things; the first is true, and others are true of decoys."""
    return Draft(
        kind=kind,
        properties=properties,
        about=(0, 1),
        question=question,
        answers=answers,
        rationales=[state(properties, (0, first), (1, second)) for first, second in stated],
        things=list(stated[0]),
        decoys=[spec for pair in stated[1:] for spec in pair],
    )


TEMPLATES: dict[str, Callable[[random.Random], Draft]] = {
    "match colour": lambda rng: write_match(rng, "colour"),
    "match shape": lambda rng: write_match(rng, "shape"),
    "common": write_common,
    "compare colour": lambda rng: write_compare(rng, "colour"),
    "compare shape": lambda rng: write_compare(rng, "shape"),
    "where": write_where,
}


def relabel(tokens: Tokens, positions: Sequence[int]) -> Tokens:
    """With each tag replaced by its thing's position."""
    return [token if isinstance(token, str) else [positions[thing] for thing in token] for token in tokens]


def complete(rng: random.Random, spec: Spec) -> Spec:
    """With what is free drawn uniformly; the cell stays."""
    drawn: dict[str, Any] = {name: getattr(spec, name) or rng.choice(words) for name, words in WORDS.items()}
    return replace(spec, **drawn)
