"""Questions about a scene with their only right answers, in the style and with the types of VQA v2."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlp.scenes.grammar import PLURALS
from vlp.scenes.scene import COLOURS, SHAPES, Scene, Thing, relations, side_of

ARTICLES = dict.fromkeys("aeiou", "an")


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str
    answer: str
    kind: str  # VQA's question_type: the words that the question begins with
    answer_type: str  # "yes/no", "number" or "other"
    things: tuple[Thing, ...] = ()  # what the question is about, where that exists


def with_article(words: str) -> str:
    return f"{ARTICLES.get(words[0], 'a')} {words}"


def yes_no_question(kind: str, text: str, truth: bool, things: tuple[Thing, ...] = ()) -> Question:
    return Question(text=text, answer="yes" if truth else "no", kind=kind, answer_type="yes/no", things=things)


def count_question(text: str, things: tuple[Thing, ...]) -> Question:
    return Question(text=text, answer=str(len(things)), kind="how many", answer_type="number", things=things)


def other_question(kind: str, text: str, answer: str, things: tuple[Thing, ...] = ()) -> Question:
    return Question(text=text, answer=answer, kind=kind, answer_type="other", things=things)


def write_questions(rng: random.Random, scene: Scene) -> list[Question]:
    """Six to nine: each kind that has a single right answer in this scene."""
    things = scene.groups[rng.randrange(len(scene.groups))]
    thing, be = things[0], "is" if len(things) == 1 else "are"
    plural = PLURALS.get(thing.shape, thing.shape + "s")
    noun = thing.shape if len(things) == 1 else plural
    name = f"{thing.colour} {noun}"
    asked = [
        other_question("what color is the", "What color is the background?", scene.background),
        other_question(
            "what", f"What pattern {'does' if be == 'is' else 'do'} the {name} have?", thing.texture, things
        ),
        *existence_questions(rng, scene),
        *number_questions(rng, scene),
    ]
    if len(scene.matching(shape=thing.shape)) == len(things):
        asked.append(other_question(f"what color {be} the", f"What color {be} the {noun}?", thing.colour, things))
    if len(scene.matching(colour=thing.colour)) == len(things):
        objects = "object" if be == "is" else "objects"
        asked.append(other_question("what", f"What shape {be} the {thing.colour} {objects}?", thing.shape, things))
    horizontal = side_of(things)[1]
    if horizontal:
        asked.append(other_question("which", f"Which side of the picture {be} the {name} on?", horizontal, things))
    return asked + position_questions(rng, scene)


def existence_questions(rng: random.Random, scene: Scene) -> list[Question]:
    """Is there a red star? Half of the absent ones have a colour and a shape that are both there, but not together."""
    if rng.random() < 0.5:
        thing = rng.choice(scene.things)
        shape, colour = thing.shape, thing.colour
    else:
        near = rng.random() < 0.5
        shapes = sorted({thing.shape for thing in scene.things}) if near else list(SHAPES)
        colours = sorted({thing.colour for thing in scene.things}) if near else list(COLOURS)
        pairs = [(shape, colour) for shape in shapes for colour in colours]
        shape, colour = rng.choice(
            [pair for pair in pairs if not scene.matching(shape=pair[0], colour=pair[1])] or pairs
        )
    found = scene.matching(shape=shape, colour=colour)
    return [yes_no_question("is there a", f"Is there {with_article(f'{colour} {shape}')}?", bool(found), found)]


def number_questions(rng: random.Random, scene: Scene) -> list[Question]:
    shape = rng.choice(scene.things).shape if rng.random() < 0.8 else rng.choice(list(SHAPES))
    found, plural = scene.matching(shape=shape), PLURALS.get(shape, shape + "s")
    return [
        count_question(f"How many {plural} are there?", found),
        count_question("How many shapes are in the picture?", scene.things),
    ]


def position_questions(rng: random.Random, scene: Scene) -> list[Question]:
    """Is the red star above the blue ring? Only about two single things; where it is false, the opposite holds."""
    single = [things for things in scene.groups if len(things) == 1]
    if len(single) < 2:
        return []
    first, second = rng.sample(single, 2)
    relation = rng.choice(relations(first, second))
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[relation]
    truth = rng.random() < 0.5
    words = {"left": "to the left of", "right": "to the right of"}
    named = relation if truth else opposite
    (a,), (b,) = first, second
    text = f"Is the {a.colour} {a.shape} {words.get(named, named)} the {b.colour} {b.shape}?"
    return [yes_no_question("is the", text, truth, (a, b))]
