"""English about a scene, true by construction: captions with paraphrase, and their swapped, false versions.

A mention names one group by some of its attributes, always enough to single it out. A caption is a template with
slots for mentions, so exchanging the colours of two mentions yields the same words in another order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlp.scenes.scene import NUMBERS, Scene, relations, side_of

PLURALS = {"cross": "crosses", "box": "boxes"}
SYNONYMS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "checkered"),
}
TEXTURE_ENDINGS = {"striped": "with stripes", "dotted": "with dots", "checked": "with checks"}
PREPOSITIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over", "higher up than"),
    "below": ("below", "under", "lower down than"),
}
EDGES = {"top": "at", "bottom": "at", "left": "on", "right": "on"}
GROUNDS = ("on a {} background", "against a {} background", "on a {} backdrop", "in front of a {} background")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """One group as a caption names it: the words, and the attributes that they stand for."""

    number: int
    attributes: dict[str, str]  # those that are said, by their names in `Thing`
    words: dict[str, str]
    ending: str = ""  # a texture after the noun, in place of the adjective

    @property
    def noun(self) -> str:
        noun = self.words["shape"]
        return noun if self.number == 1 else PLURALS.get(noun, noun + "s")

    @property
    def colour(self) -> str:
        return self.words["colour"]

    @property
    def be(self) -> str:
        return "is" if self.number == 1 else "are"

    @property
    def it(self) -> str:
        return "it" if self.number == 1 else "them"

    @property
    def s(self) -> str:
        return "s" if self.number == 1 else ""

    @property
    def name(self) -> str:
        """Without an article or a number, as in "large red circles"."""
        words = [self.words[name] for name in ("size", "texture", "colour") if name in self.words]
        return " ".join([*words, self.noun]) + self.ending

    def __str__(self) -> str:
        article = "an" if self.name[0] in "aeiou" else "a"
        return f"{article if self.number == 1 else NUMBERS[self.number]} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a sentence says beside its mentions: their relation, the number of all things, where the first one is."""

    template: str  # with a slot for each mention, such as "{0} above {1}"; "" = this form does not fit the scene
    relation: str = ""
    total: int | None = None
    place: tuple[str, str] = ("", "")  # as `side` gives it; "" = not said


@dataclass(frozen=True, kw_only=True)
class Caption:
    template: str
    mentions: tuple[Mention, ...]
    form: Form = Form(template="")  # what else it says
    background: str = ""

    def __str__(self) -> str:
        return self.template.format(*self.mentions)

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of a scene: of its own by construction, of others by chance."""
        groups = [scene.matching(**mention.attributes) for mention in self.mentions]
        if any(len(group) != mention.number for group, mention in zip(groups, self.mentions, strict=True)):
            return False
        if self.background not in ("", scene.background) or self.form.total not in (None, len(scene.things)):
            return False
        if self.form.relation and self.form.relation not in relations(groups[0], groups[1]):
            return False
        if not any(self.form.place):
            return True
        return all(named in ("", found) for named, found in zip(self.form.place, side_of(groups[0]), strict=True))


def mention(rng: random.Random, scene: Scene, group: int, *, colour: bool | None = None) -> Mention:
    """Some of a group's attributes in words of its own choice; `colour` is said where the rest would be ambiguous."""
    things = scene.groups[group]
    thing = things[0]
    named = {"shape"}
    if colour or (colour is None and rng.random() < 0.9):
        named.add("colour")
    if rng.random() < (0.2 if thing.texture == "plain" else 0.5):
        named.add("texture")
    if rng.random() < 0.45:
        named.add("size")
    if len(scene.matching(**{name: getattr(thing, name) for name in named})) > len(things):
        named.add("colour")
    attributes = {name: getattr(thing, name) for name in sorted(named)}
    words = {name: rng.choice(SYNONYMS.get(word, (word,))) for name, word in attributes.items()}
    ending = ""
    if attributes.get("texture", "plain") != "plain" and rng.random() < 0.4:
        ending = " " + TEXTURE_ENDINGS[attributes["texture"]]
        del words["texture"]
    return Mention(number=len(things), attributes=attributes, words=words, ending=ending)


def spatial_form(rng: random.Random, scene: Scene, groups: Sequence[int]) -> Form:
    names = relations(scene.groups[groups[0]], scene.groups[groups[1]])
    if not names:
        return Form(template="")
    relation = rng.choice(names)
    preposition = rng.choice(PREPOSITIONS[relation])
    forms = [
        "{0} " + preposition + " {1}",
        "{0} {0.be} " + preposition + " {1}",
        "{0} sit{0.s} " + preposition + " {1}",
    ]
    forms += ["{1} with {0} " + preposition + " {1.it}", "there {0.be} {0} " + preposition + " {1}"]
    return Form(template=rng.choice(forms), relation=relation)


def listing_form(rng: random.Random, scene: Scene, groups: Sequence[int]) -> Form:
    slots = [f"{{{index}}}" for index in range(len(groups))]
    names = f"{', '.join(slots[:-1])} and {slots[-1]}"
    opening = rng.choice(("there {0.be} ", "a picture of ", "an image with ", "we see "))
    return Form(template=opening + names)


def counting_form(rng: random.Random, scene: Scene, groups: Sequence[int]) -> Form:
    total = len(scene.things)
    link = "," if len(groups) == len(scene.groups) == 2 else rng.choice((", including", ", among them"))
    forms = (
        f"{NUMBERS[total]} shapes{link} {{0}} and {{1}}",
        f"a scene of {NUMBERS[total]} objects{link} {{0}} and {{1}}",
    )
    return Form(template=rng.choice(forms), total=total)


def placing_form(rng: random.Random, scene: Scene, groups: Sequence[int]) -> Form:
    place = side_of(scene.groups[groups[0]])
    where = [word for word in place if word]
    if not where:
        return Form(template="")
    words = f"in the {where[0]} {where[1]} corner" if len(where) == 2 else f"{EDGES[where[0]]} the {where[0]}"
    forms = (f"{{0}} {words} and {{1}} as well", f"{words} {{0.be}} {{0}}, and there {{1.be}} {{1}}")
    return Form(template=rng.choice(forms), place=place)


def telling_form(rng: random.Random, scene: Scene, groups: Sequence[int]) -> Form:
    """As in "the circle is red", where no other group has the same shape."""
    if any(len(scene.matching(shape=scene.groups[group][0].shape)) > len(scene.groups[group]) for group in groups[:2]):
        return Form(template="")
    link = rng.choice(("while", "and", "but"))
    return Form(template=f"the {{0.noun}} {{0.be}} {{0.colour}} {link} the {{1.noun}} {{1.be}} {{1.colour}}")


Write = Callable[[random.Random, Scene, Sequence[int]], Form]
FORMS: tuple[Write, ...] = (spatial_form, listing_form, counting_form, placing_form, telling_form)


def write_caption(rng: random.Random, scene: Scene, *, form: Write, groups: list[int], colours: bool) -> Caption:
    """One caption about these groups; where the form does not fit the scene, a list of them."""
    written = form(rng, scene, groups)
    written = written if written.template else listing_form(rng, scene, groups)
    template = written.template
    if form is telling_form and template.startswith("the"):
        colours = True
    mentions = tuple(mention(rng, scene, group, colour=True if colours else None) for group in groups)
    if form is telling_form and template.startswith("the {"):  # which says nothing else of them
        mentions = tuple(mention_colour_and_shape(one) for one in mentions)
    text = Caption(template=template, mentions=mentions, form=written)
    if rng.random() < 0.25 or len(str(text).split()) < 7:
        ground = rng.choice(GROUNDS).format(scene.background)
        front = rng.random() < 0.25
        template = f"{ground}, {template}" if front else f"{template} {ground}"
        text = replace(text, template=template, background=scene.background)
    return text


def mention_colour_and_shape(one: Mention) -> Mention:
    named = ("colour", "shape")
    return replace(
        one,
        attributes={name: one.attributes[name] for name in named},
        words={name: one.words[name] for name in named},
        ending="",
    )


def write_captions(rng: random.Random, scene: Scene, count: int = 5) -> list[Caption]:
    """The first one names the colours of the first two groups, which differ, so that it can be made false by a swap."""
    forms = list(FORMS) * (count // len(FORMS) + 1)
    rng.shuffle(forms)
    written: list[Caption] = []
    while len(written) < count:
        form = forms[len(written)]
        if not written:
            groups = rng.sample((0, 1), 2)
        else:
            groups = rng.sample(range(len(scene.groups)), len(scene.groups) if form is listing_form else 2)
        written.append(write_caption(rng, scene, form=form, groups=groups, colours=not written))
    return written


def swap_colours(scene: Scene, text: Caption) -> Caption | None:
    """The caption with the colours of its first two mentions exchanged, if that is certainly false of the scene.

    It is when one of the two is then said to exist in a number in which it does not.
    """
    first, second, *rest = text.mentions
    if not {"colour"} <= first.attributes.keys() & second.attributes.keys():
        return None
    if first.attributes["colour"] == second.attributes["colour"]:
        return None
    pair = tuple(
        replace(
            one,
            attributes=one.attributes | {"colour": other.attributes["colour"]},
            words=one.words | {"colour": other.words["colour"]},
        )
        for one, other in ((first, second), (second, first))
    )
    absent = any(not scene.matching(**one.attributes) for one in pair)
    return replace(text, mentions=(*pair, *rest)) if absent else None
