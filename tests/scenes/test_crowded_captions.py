"""Captions of crowded scenes are true, and those of empty ones say that nothing is there."""

from __future__ import annotations

import random
import re
from collections import Counter

from tests.scenes.test_grammar import COLOURS, SHAPES
from vlp.scenes.crowded import sample_crowded_scene
from vlp.scenes.crowded_captions import write_crowded_captions
from vlp.scenes.scene import NUMBERS

SCENES = [sample_crowded_scene(seed=4, split="val", index=index) for index in range(200)]


def test_every_number_of_coloured_shapes_is_right() -> None:
    """By a reader of English: a number, maybe a texture, a colour and a shape."""
    numbers = {"a": 1, "an": 1} | {word: number for number, word in enumerate(NUMBERS)}
    pattern = rf"\b({'|'.join(numbers)}) (?:\w+ )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b"
    totals = "|".join(NUMBERS)
    seen: Counter[int] = Counter()
    for index, scene in enumerate(SCENES):
        for caption in write_crowded_captions(random.Random(index), scene):
            for number, colour, shape in re.findall(pattern, str(caption)):
                fitting = scene.matching(colour=COLOURS[colour], shape=SHAPES[shape])
                assert len(fitting) == numbers[number], str(caption)
                seen[len(fitting)] += 1
            if total := re.search(rf"({totals}) (?:shapes|objects)", str(caption)):
                assert numbers[total[1]] == len(scene.things)
                seen[100] += 1
    assert seen[1] > 500
    assert seen[2] > 100
    assert seen[100] > 100


def test_captions_hold_for_their_scene_and_rarely_for_another() -> None:
    elsewhere = 0
    for index, scene in enumerate(SCENES):
        captions = write_crowded_captions(random.Random(index), scene)
        assert len(captions) == 5
        assert all(caption.holds(scene) for caption in captions)
        elsewhere += sum(caption.holds(SCENES[(index + 7) % len(SCENES)]) for caption in captions if scene.things)
    assert elsewhere < 20


def test_an_empty_scene_is_said_to_be_empty() -> None:
    empty = [scene for scene in SCENES if not scene.things]
    full = next(scene for scene in SCENES if scene.things)
    assert len(empty) > 5
    for scene in empty:
        captions = write_crowded_captions(random.Random(0), scene)
        assert len({str(caption) for caption in captions}) == 5
        for caption in captions:
            assert scene.background in str(caption)
            assert caption.holds(scene)
            assert not caption.holds(full)
