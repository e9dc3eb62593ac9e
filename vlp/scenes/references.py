"""Phrases that name exactly one thing of a scene, as RefCOCO's do: by its attributes, its position, or another thing.

Words of position are vague at their borders. Each is therefore true, false or undecided of a thing, and a phrase names
a thing only if all of it is true of that thing, and something in it is false of every other.

    side       true where the centre is clearly on that side (as `scene.side_of` has it), false where clearly not
    extreme    "leftmost" of all things with the named attributes, by a clear distance to the next
    relation   true with a gap between the two things (as `scene.relations` has it), false where the centre is not even
               on that side of the other thing's centre; the other thing is named by its attributes alone
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from vlp.scenes.grammar import PREPOSITIONS, SYNONYMS, TEXTURE_ENDINGS, Mention
from vlp.scenes.scene import RELATIONS, Scene, Thing

UNDECIDED = 0.06  # how near to the middle a centre is on neither side, as a fraction of the image side
LEAD = 0.05  # by how much the leftmost thing is further left than the next
CHANCES = {"colour": 0.55, "size": 0.25, "texture": 0.25}  # how often each is said
TRIES = 12  # of each kind of phrase
SIDES = {
    "left": ("{} on the left", "left {}", "the {} on the left side"),
    "right": ("{} on the right", "right {}", "the {} on the right side"),
    "above": ("{} at the top", "top {}", "the {} in the upper half"),
    "below": ("{} at the bottom", "bottom {}", "the {} in the lower half"),
}
EXTREMES = {
    "left": ("leftmost {}", "the {} furthest to the left"),
    "right": ("rightmost {}", "the {} furthest to the right"),
    "above": ("topmost {}", "the highest {}"),
    "below": ("lowest {}", "the {} furthest down"),
}
CORNERS = ("{{}} in the {} {} corner", "{} {} {{}}")
NAMES = {"above": "top", "below": "bottom"}  # of sides in corners


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A phrase and what it says.  mention: of the thing itself.  sides: of the picture, one or two.  extreme: of the things
    that the mention fits.  relation: to the only thing that `other` fits.  All of RELATIONS' words; "" = not said."""

    text: str
    mention: Mention
    sides: tuple[str, ...] = ()
    extreme: str = ""
    relation: str = ""
    other: Mention | None = None


def referent(scene: Scene, reference: Reference) -> Thing | None:
    """The one thing that it names; None where it names none or more than one, or where that is undecided."""
    fitting = scene.matching(**reference.mention.attributes)
    if reference.extreme:
        ahead = sorted((_along(thing, reference.extreme) for thing in fitting), reverse=True)
        if len(ahead) < 2 or ahead[0] - ahead[1] < LEAD:
            return None
        fitting = tuple(thing for thing in fitting if _along(thing, reference.extreme) == ahead[0])
    others: tuple[Thing, ...] = ()
    if reference.other is not None:
        others = scene.matching(**reference.other.attributes)
        if len(others) != 1:
            return None
        fitting = tuple(thing for thing in fitting if thing is not others[0])
    not_false = [thing for thing in fitting if _holds(thing, reference, others, clearly=False)]
    if len(not_false) != 1 or not _holds(not_false[0], reference, others, clearly=True):
        return None
    return not_false[0]


def _along(thing: Thing, direction: str) -> float:
    """How far it is in a direction, from the middle of the picture."""
    return {"left": 0.5 - thing.x, "right": thing.x - 0.5, "above": 0.5 - thing.y, "below": thing.y - 0.5}[direction]


def _holds(thing: Thing, reference: Reference, others: tuple[Thing, ...], *, clearly: bool) -> bool:
    """clearly: whether all is true; else whether nothing is false."""
    border = UNDECIDED if clearly else -UNDECIDED
    sides = all(_along(thing, side) > border for side in reference.sides)
    gaps = [
        _along(thing, reference.relation) - _along(other, reference.relation) - clearly * (thing.radius + other.radius)
        for other in others
    ]
    return sides and all(gap > 0 for gap in gaps)


def write_references(rng: random.Random, scene: Scene, thing: Thing, count: int = 3) -> list[Reference]:
    """At most `count` different phrases that name this thing, of different kinds as far as it can be named so."""
    kinds = rng.sample((_by_attributes, _by_side, _by_extreme, _by_relation), 4)
    written: dict[str, Reference] = {}
    for kind in kinds * 2:
        for _ in range(TRIES if len(written) < count else 0):
            reference = kind(rng, scene, thing)
            if reference.text not in written and referent(scene, reference) is thing:
                written[reference.text] = reference
                break
    return list(written.values())


Write = Callable[[random.Random, Scene, Thing], Reference]


def _mention(rng: random.Random, thing: Thing) -> Mention:
    """Some of its attributes, in words of their own; now and then "thing" in place of its shape."""
    said = [name for name, chance in CHANCES.items() if getattr(thing, name) and rng.random() < chance]
    attributes = {name: getattr(thing, name) for name in said}
    if not attributes or rng.random() < 0.85:
        attributes["shape"] = thing.shape
    words = {name: rng.choice(SYNONYMS.get(word, (word,))) for name, word in attributes.items()}
    words.setdefault("shape", rng.choice(("thing", "shape", "object")))
    ending = ""
    if attributes.get("texture", "plain") != "plain" and rng.random() < 0.4:
        ending = " " + TEXTURE_ENDINGS[attributes["texture"]]
        del words["texture"]
    return Mention(number=1, attributes=attributes, words=words, ending=ending)


def _by_attributes(rng: random.Random, scene: Scene, thing: Thing) -> Reference:
    mention = _mention(rng, thing)
    return Reference(text=rng.choice(("the {}", "{}")).format(mention.name), mention=mention)


def _by_side(rng: random.Random, scene: Scene, thing: Thing) -> Reference:
    mention = _mention(rng, thing)
    sides = tuple(side for side in ("above", "below", "left", "right") if _along(thing, side) > UNDECIDED)
    if len(sides) == 2 and rng.random() < 0.5:
        template = rng.choice(CORNERS).format(*(NAMES.get(side, side) for side in sides))
    else:
        sides = (rng.choice(sides or RELATIONS),)
        template = rng.choice(SIDES[sides[0]])
    return Reference(text=template.format(mention.name), mention=mention, sides=sides)


def _by_extreme(rng: random.Random, scene: Scene, thing: Thing) -> Reference:
    mention, extreme = _mention(rng, thing), rng.choice(RELATIONS)
    return Reference(text=rng.choice(EXTREMES[extreme]).format(mention.name), mention=mention, extreme=extreme)


def _by_relation(rng: random.Random, scene: Scene, thing: Thing) -> Reference:
    mention, relation = _mention(rng, thing), rng.choice(RELATIONS)
    other = _mention(rng, rng.choice(scene.things))
    link = rng.choice(("{} {} the {}", "the {} that is {} the {}"))
    text = link.format(mention.name, rng.choice(PREPOSITIONS[relation]), other.name)
    return Reference(text=text, mention=mention, relation=relation, other=other)
