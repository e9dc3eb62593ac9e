"""Crowded scenes: 4 to 12 things of very different sizes that hide parts of each other and of the frame.

Things are placed one after the other, later ones over earlier ones. None is placed where it would leave less than two
fifths of an earlier one visible, so every thing that is drawn can be recognised and is annotated. One scene in ten is empty.
Three in ten of the others that have room hold a crowd: five or more things of one shape, each touching another one. What
counts as a crowd is decided by touch alone, so things that meet by chance can be one, or belong to one.

Touch and visibility are measured on a raster of 128 pixels, so a scene does not depend on the size it is drawn at. Small
things are plain, as a texture's cells would not fit, and sizes have no words.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlp.scenes.draw import coverage
from vlp.scenes.scene import (
    BACKGROUNDS,
    COLOUR_SHARE,
    COLOURS,
    FRAME,
    SHAPES,
    TEXTURES,
    Scene,
    Thing,
    sample_colour,
    sample_word,
)

EMPTY = 0.1  # the fraction of scenes without things
COUNTS = (4, 12)  # of things
RADII = (0.04, 0.25)  # half extents as fractions of the image side; their logarithms are uniform
TEXTURED = 0.1  # the least radius of a thing with a texture
VISIBLE = 0.4  # the least visible fraction of a thing
CROWDED = 0.3  # the fraction of scenes with six things or more that hold a crowd
CROWD = 5  # things that touch make a crowd from this number on
CROWD_RADII = (0.04, 0.07)
CLOSENESS = (0.5, 0.85)  # the distance between neighbours of a crowd, over the sum of their radii
RASTER = 128
TRIES = 60  # positions of a thing before the scene is begun again


@dataclass
class _Canvas:
    """Things placed so far, with the masks of their full outlines and of what is visible, bool [RASTER, RASTER]."""

    things: list[Thing]
    full: list[np.ndarray]
    visible: list[np.ndarray]

    def place(self, thing: Thing, touching: Sequence[int]) -> bool:
        """On top, if it hides no earlier thing almost completely and, where `touching` is not empty, touches one of these."""
        mask = full_mask(thing)
        if touching and not any(touches(mask, self.full[position]) for position in touching):
            return False
        left = [visible & ~mask for visible in self.visible]
        if any(now.sum() < VISIBLE * full.sum() for now, full in zip(left, self.full, strict=True)):
            return False
        self.things.append(thing)
        self.full.append(mask)
        self.visible = [*left, mask]
        return True


def full_mask(thing: Thing) -> np.ndarray:
    """Of the full outline, whatever hides it, bool [RASTER, RASTER]."""
    window, left, top = coverage(thing, RASTER)
    window = window[: RASTER - top, : RASTER - left] >= 128
    mask = np.zeros((RASTER, RASTER), dtype=bool)
    mask[top : top + window.shape[0], left : left + window.shape[1]] = window
    return mask


def touches(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two masks overlap, or have pixels that are neighbours, by a corner at least."""
    padded = np.pad(first, 1)
    height, width = first.shape
    return any((padded[y : y + height, x : x + width] & second).any() for y in range(3) for x in range(3))


def find_crowds(things: Sequence[Thing]) -> tuple[tuple[int, ...], ...]:
    """Positions of all things by annotation, in drawing order of their first: a crowd's together, all others alone."""
    masks = [full_mask(thing) for thing in things]
    joined = list(range(len(things)))  # for each thing the first one of those that it is connected to
    for second, thing in enumerate(things):
        for first in range(second):
            if things[first].shape == thing.shape and touches(masks[first], masks[second]):
                pair = sorted((joined[first], joined[second]))
                joined = [pair[0] if root == pair[1] else root for root in joined]
    groups = [tuple(i for i, root in enumerate(joined) if root == first) for first in sorted(set(joined))]
    split = [[group] if len(group) >= CROWD else [(position,) for position in group] for group in groups]
    return tuple(sorted(annotation for annotations in split for annotation in annotations))


def sample_crowded_scene(*, seed: int, split: str, index: int) -> Scene:
    """The scene number `index` of a split: it depends on nothing but these three."""
    rng = random.Random(f"crowded/{seed}/{split}/{index}")
    things: list[Thing] | None = [] if rng.random() < EMPTY else None
    while things is None:
        things = _sample_things(rng)
    background = rng.choice(list(BACKGROUNDS))
    ground = sample_colour(rng, BACKGROUNDS[background])
    slope = (rng.uniform(-1, 1), rng.uniform(-1, 1))
    frame = tuple((rng.uniform(*FRAME), sample_colour(rng, COLOURS[rng.choice(list(COLOURS))])) for _ in range(4))
    return Scene(things=tuple(things), background=background, rgb=ground, frame=frame, slope=slope)


def _sample_things(rng: random.Random) -> list[Thing] | None:
    """In drawing order; None where they did not fit."""
    count = rng.randint(*COUNTS)
    crowd = range(0)
    if count > CROWD and rng.random() < CROWDED:
        number = rng.randint(CROWD, count - 1)
        first = rng.randint(0, count - number)
        crowd = range(first, first + number)
    shape = sample_word(rng, SHAPES)  # of the crowd
    canvas = _Canvas([], [], [])
    pairs: dict[tuple[str, str], int] = {}
    for position in range(count):
        kind = (shape if position in crowd else sample_word(rng, SHAPES), sample_word(rng, COLOUR_SHARE))
        group = pairs.setdefault(kind, len(pairs))
        neighbours = range(crowd.start, position) if position in crowd else range(0)
        near = [canvas.things[neighbour] for neighbour in neighbours]
        for _ in range(TRIES):
            thing = _sample_thing(rng, *kind, group=group, crowd=position in crowd, near=near)
            if thing is not None and canvas.place(thing, neighbours):
                break
        else:
            return None
    return canvas.things


def _sample_thing(
    rng: random.Random, shape: str, colour: str, *, group: int, crowd: bool, near: Sequence[Thing]
) -> Thing | None:
    """near: earlier things of its crowd, to one of which it is close.  None where it would leave the picture."""
    low, high = (math.log(end) for end in (CROWD_RADII if crowd else RADII))
    radius = math.exp(rng.uniform(low, high))
    x, y = (rng.uniform(radius, 1 - radius) for _ in range(2))
    if near:
        other, turn = rng.choice(near), rng.uniform(0, 2 * math.pi)
        distance = rng.uniform(*CLOSENESS) * (radius + other.radius)
        x, y = other.x + distance * math.cos(turn), other.y + distance * math.sin(turn)
        if not all(radius < centre < 1 - radius for centre in (x, y)):
            return None
    texture = sample_word(rng, TEXTURES) if radius >= TEXTURED else "plain"
    return Thing(
        shape=shape, colour=colour, texture=texture, size="", group=group, rgb=sample_colour(rng, COLOURS[colour]),
        x=x, y=y, radius=radius, angle=rng.uniform(-10, 10),
    )  # fmt: skip
