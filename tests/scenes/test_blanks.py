"""Blanks of generated captions: each is a word of the caption, and no other word of its kind would be true."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

from vlp.scenes.blanks import KINDS, find_blanks
from vlp.scenes.grammar import SYNONYMS, Caption, Mention, write_captions
from vlp.scenes.scene import sample_scene


def told(number: int = 1, **attributes: str) -> Mention:
    return Mention(number=number, attributes=attributes, words=attributes)


def test_blanks_are_words_and_synonyms_count() -> None:
    found: Counter[str] = Counter()
    for index in range(200):
        scene = sample_scene(seed=3, split="val", index=index)
        for caption in write_captions(random.Random(index), scene):
            for blank in find_blanks(scene, caption):
                assert str(caption)[blank.start : blank.end] in blank.words
                found[blank.kind] += 1
                if "disc" in blank.words:
                    assert set(blank.words) == set(SYNONYMS["circle"])
                if blank.words == ("stripes",):
                    assert str(caption)[: blank.start].endswith("with ")
                    found["ending"] += 1
    assert set(found) == {"number", "ending", *KINDS}
    assert min(found.values()) > 30


def test_what_the_picture_does_not_decide_is_left_alone() -> None:
    """Two groups of one shape: "a ? circle" could be either, but which shape the red one has is decided."""
    scenes = (sample_scene(seed=4, split="val", index=index) for index in range(2000))
    scene, first = next(
        (scene, one)
        for scene in scenes
        for one, other in combinations([group[0] for group in scene.groups if len(group) == 1], 2)
        if one.shape == other.shape
    )
    caption = Caption(template="{0}", mentions=(told(colour=first.colour, shape=first.shape),))
    assert [blank.kind for blank in find_blanks(scene, caption)] == ["shape"]


def test_only_what_is_said_counts() -> None:
    """In "the circle is red" the size that the mention knows of is not said, so it cannot decide."""
    scene = sample_scene(seed=0, split="val", index=0)
    thing = scene.groups[0][0]
    mention = told(colour=thing.colour, shape=thing.shape, size=thing.size)
    short = Caption(template="the {0.noun} {0.be} {0.colour}", mentions=(mention,))
    plain = Caption(template="the {0.noun} {0.be} {0.colour}", mentions=(told(colour=thing.colour, shape=thing.shape),))
    assert find_blanks(scene, short) == find_blanks(scene, plain)


def test_a_size_is_asked_only_where_no_texture_could_stand() -> None:
    scenes = (sample_scene(seed=0, split="val", index=index) for index in range(2000))
    scene, thing = next((scene, scene.things[0]) for scene in scenes if len(scene.groups[0]) == 1)
    whole = {"size": thing.size, "texture": thing.texture, "colour": thing.colour, "shape": thing.shape}
    short = {name: word for name, word in whole.items() if name != "texture"}
    asked = [
        {b.kind for b in find_blanks(scene, Caption(template="{0}", mentions=(told(**said),)))}
        for said in (whole, short)
    ]
    assert asked[0] >= {"size", "texture"}
    assert "size" not in asked[1]
