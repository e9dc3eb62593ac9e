"""English about a crowded scene, true by construction: of things of one colour and shape it always says how many there are.

The forms are those of the default scenes. Nothing is said of sizes, and of a texture only where all of them have it.
"""

from __future__ import annotations

import random
from dataclasses import replace

from vlp.scenes.grammar import (
    GROUNDS,
    SYNONYMS,
    Caption,
    Form,
    Mention,
    counting_form,
    listing_form,
    placing_form,
    spatial_form,
)
from vlp.scenes.scene import Scene

FORMS = (spatial_form, listing_form, counting_form, placing_form)
EMPTY = (
    "nothing on a {} background",
    "an empty {} background",
    "a {} background without any shapes",
    "there are no shapes on a {} background",
    "a picture of an empty {} backdrop",
)


def write_crowded_captions(rng: random.Random, scene: Scene, count: int = 5) -> list[Caption]:
    """Of different forms as far as they fit."""
    if not scene.things:
        form = Form(template="", total=0)
        templates = (template.format(scene.background) for template in EMPTY[:count])
        return [Caption(template=text, mentions=(), form=form, background=scene.background) for text in templates]
    forms = [*FORMS] * (count // len(FORMS) + 1)
    rng.shuffle(forms)
    return [_write(rng, scene, form) for form in forms[:count]]


def _write(rng: random.Random, scene: Scene, form: object) -> Caption:
    groups = list(range(len(scene.groups)))
    if len(groups) == 1:
        text = Caption(
            template=rng.choice(("a picture of {0}", "there {0.be} {0}")), mentions=(_mention(rng, scene, 0),)
        )
    else:
        chosen = rng.sample(groups, min(len(groups), rng.choice((2, 3)) if form is listing_form else 2))
        written = form(rng, scene, chosen)  # type: ignore[operator]
        written = written if written.template else listing_form(rng, scene, chosen)
        text = Caption(
            template=written.template, mentions=tuple(_mention(rng, scene, group) for group in chosen), form=written
        )
    if rng.random() < 0.25:
        ground = rng.choice(GROUNDS).format(scene.background)
        text = replace(text, template=f"{text.template} {ground}", background=scene.background)
    return text


def _mention(rng: random.Random, scene: Scene, group: int) -> Mention:
    things = scene.groups[group]
    attributes = {"colour": things[0].colour, "shape": things[0].shape}
    textures = {thing.texture for thing in things}
    if len(textures) == 1 and rng.random() < (0.15 if textures == {"plain"} else 0.5):
        attributes["texture"] = things[0].texture
    words = {name: rng.choice(SYNONYMS.get(word, (word,))) for name, word in attributes.items()}
    return Mention(number=len(things), attributes=attributes, words=words)
