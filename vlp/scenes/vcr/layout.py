"""The scene of a question: 4 to 6 things in the cells of a grid of three by three, so large and so far from each other that marks
can be drawn around all of them.

The ground is gray and the things have four colours, so that the colours of marks (`vlp.data.marks.SCENE_COLOURS`) are those of
nothing else in the picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from vlp.scenes.draw import outline
from vlp.scenes.scene import BACKGROUNDS, COLOURS, Scene, Thing, sample_colour
from vlp.scenes.vcr.templates import Draft, Spec, complete

CELLS = list(product(range(3), range(3)))
FEWEST, MOST = 4, 6
HALF_SIDE = {"large": (0.115, 0.122), "small": (0.072, 0.08)}  # of a thing, as a fraction of the image's side
EXTENT = {"square": 0.78, "triangle": 0.92, "cross": 1.0, "ring": 1.0}  # of an outline of radius 1, turned a little
FREE = 1 / 6 - 0.035  # of half a cell, less a line around the thing


def choose_things(rng: random.Random, draft: Draft) -> list[Spec]:
    """All things of the picture, complete: those of the draft first, then decoys, then any."""
    count = max(len(draft.things), rng.randint(FEWEST, MOST))
    specs, used = list(draft.things), {spec.cell for spec in draft.things}
    for spec in draft.decoys[: count - len(specs)]:
        specs.append(replace(spec, cell=None) if spec.cell in used else spec)
        used.add(spec.cell)
    specs += [Spec()] * (count - len(specs))
    free = [cell for cell in CELLS if cell not in {spec.cell for spec in specs}]
    rng.shuffle(free)
    return [complete(rng, spec if spec.cell else replace(spec, cell=free.pop())) for spec in specs]


def place_things(rng: random.Random, specs: Sequence[Spec]) -> Scene:
    """The scene of these things, in this order."""
    ground = sample_colour(rng, BACKGROUNDS["gray"])
    things = tuple(_place(rng, spec, number) for number, spec in enumerate(specs))
    frame = ((0.0, ground),) * 4  # none: it has the colour of the ground
    return Scene(
        things=things, background="gray", rgb=ground, frame=frame, slope=(rng.uniform(-1, 1), rng.uniform(-1, 1))
    )


def _place(rng: random.Random, spec: Spec, number: int) -> Thing:
    assert spec.shape is not None
    assert spec.colour is not None
    assert spec.size is not None
    assert spec.cell is not None
    half = rng.uniform(*HALF_SIDE[spec.size])
    room = max(0.0, FREE - half)
    row, column = spec.cell
    return Thing(
        shape=spec.shape, colour=spec.colour, texture="plain", size=spec.size, group=number,
        rgb=sample_colour(rng, COLOURS[spec.colour]), x=(column + 0.5) / 3 + rng.uniform(-room, room),
        y=(row + 0.5) / 3 + rng.uniform(-room, room), radius=half / EXTENT[spec.shape], angle=rng.uniform(-6, 6),
    )  # fmt: skip


def polygon(thing: Thing, size: int) -> list[list[float]]:
    """Its border in pixels of a picture of this size, without its hole."""
    cosine, sine = math.cos(math.radians(thing.angle)), math.sin(math.radians(thing.angle))
    scale = thing.radius * size
    return [
        [
            round(thing.x * size + scale * (x * cosine - y * sine), 2),
            round(thing.y * size + scale * (x * sine + y * cosine), 2),
        ]
        for x, y in outline(thing.shape)[0]
    ]
