"""Pairs of a colour and a shape as texts name them, against the mentions that captions are made of."""

from __future__ import annotations

import random

import pytest

from vlp.scenes.grammar import write_captions
from vlp.scenes.pairs import all_pairs, named_pairs, parse_pairs
from vlp.scenes.scene import sample_scene
from vlp.system.errors import UserError


def test_texts_name_what_they_say() -> None:
    assert named_pairs("two small violet moons to the left of a red box") == {("purple", "crescent"), ("red", "square")}
    assert named_pairs("the circle is red while the stars are blue") == {("red", "circle"), ("blue", "star")}
    assert named_pairs("Is there a green hoop?") == {("green", "ring")}
    assert named_pairs("the leftmost disc, a red thing and boxes with stripes") == frozenset()
    assert named_pairs("a reddish starfish") == frozenset()


def test_captions_name_the_pairs_of_their_mentions_and_no_others() -> None:
    for index in range(150):
        scene = sample_scene(seed=2, split="train", index=index)
        shown = {(thing.colour, thing.shape) for thing in scene.things}
        for caption in write_captions(random.Random(index), scene):
            said = {
                (mention.attributes["colour"], mention.attributes["shape"])
                for mention in caption.mentions
                if "colour" in mention.words
            }
            assert named_pairs(str(caption)) == said <= shown


def test_pairs_are_read_from_settings() -> None:
    assert parse_pairs(["red star", "violet moon"]) == {("red", "star"), ("purple", "crescent")}
    assert len(set(all_pairs())) == 63
    for text in ("star", "red", "red starfish", "star red", "red  star"):
        with pytest.raises(UserError, match="is no colour and shape such as 'red star'"):
            parse_pairs([text])
