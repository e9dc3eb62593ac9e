"""Every phrase names exactly the thing it was written for, by a reader of English that knows attributes and boxes alone."""

from __future__ import annotations

import pickle
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.scenes.conftest import Seen
from tests.scenes.test_grammar import COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES
from vlp.scenes.grammar import Mention
from vlp.scenes.refcoco import encode_refcoco
from vlp.scenes.references import Reference, referent, write_references
from vlp.scenes.scene import Scene, Thing, sample_scene

WORDS = [(SIZES, "size"), (TEXTURES, "texture"), (COLOURS, "colour"), (SHAPES, "shape")]
HALVES = {"left": "left", "right": "right", "top": "above", "bottom": "below", "upper": "above", "lower": "below"}
EXTREMES = {
    "leftmost": "left", "furthest to the left": "left", "rightmost": "right", "furthest to the right": "right",
    "topmost": "above", "highest": "above", "lowest": "below", "furthest down": "below",
}  # fmt: skip


def along(thing: Seen, direction: str) -> float:
    x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
    return {"left": -x, "right": x, "above": -y, "below": y}[direction]


def split_off(text: str, table: dict[str, str]) -> tuple[str, str]:
    """The text without the first phrase of the table that is in it, and what that phrase stands for."""
    for words in sorted(table, key=len, reverse=True):
        if re.search(rf"\b{words}\b", text):
            return re.sub(rf"\b{words}\b", "", text, count=1), table[words]
    return text, ""


def fits(text: str) -> Callable[[Seen], bool]:
    """Of attributes alone; fails for a text that has other words."""
    said = []
    for table, attribute in WORDS:
        text, word = split_off(text, table)
        said += [(attribute, word)] if word else []
    assert set(text.split()) <= {"the", "thing", "shape", "object"}, text
    return lambda thing: all(getattr(thing, attribute) == word for attribute, word in said)


def named(text: str, things: list[Seen]) -> list[Seen]:
    """Whatever it could mean, without margins: sides by the middle, relations by centres."""
    pattern = "|".join(sorted(RELATIONS, key=len, reverse=True))
    if match := re.fullmatch(rf"(.+?)(?: that is)? ({pattern}) the (.+)", text):
        (other,) = filter(fits(match[3]), things)
        direction = RELATIONS[match[2]]
        first = filter(fits(match[1]), things)
        return [thing for thing in first if thing is not other and along(thing, direction) > along(other, direction)]
    text, extreme = split_off(text, EXTREMES)
    if extreme:
        candidates = list(filter(fits(text), things))
        assert len(candidates) > 1
        return [max(candidates, key=lambda thing: along(thing, extreme))]
    sides = []
    for _ in range(2):
        text, side = split_off(text, HALVES)
        sides += [side] if side else []
    text = re.sub(r"\b(on the|at the|in the)\s+(corner|half|side)?|\b(corner|half|side)\b", "", text)
    middle = {"left": -32, "right": 32, "above": -32, "below": 32}
    return [thing for thing in filter(fits(text), things) if all(along(thing, s) > middle[s] for s in sides)]


def test_a_reader_finds_the_thing_of_each_phrase(referring: Path, seen: dict[int, list[Seen]]) -> None:
    refs = pickle.loads((referring / "refcoco/refs(unc).p").read_bytes())
    kinds: Counter[str] = Counter()
    for ref in refs:
        things = seen[ref["image_id"]]
        for sentence in ref["sentences"]:
            assert named(sentence["sent"], things) == [things[ref["ann_id"] % 100]], sentence
            kinds[
                "relation" if re.search("|".join(RELATIONS), sentence["sent"])
                else "extreme" if re.search("|".join(EXTREMES), sentence["sent"])
                else "side" if re.search(r"\b(left|right|top|bottom|half)\b", sentence["sent"]) else "attributes"
            ] += 1  # fmt: skip
    assert min(kinds[kind] for kind in ("relation", "extreme", "side", "attributes")) > 0.04 * kinds.total()
    assert len(refs) > 0.97 * sum(map(len, seen.values()))


def thing(x: float, y: float, **changed: str) -> Thing:
    attributes = {"shape": "circle", "colour": "red", "texture": "plain", "size": "small"} | changed
    return Thing(**attributes, group=0, rgb=(255, 0, 0), x=x, y=y, radius=0.1, angle=0.0)


def reference(**said: object) -> Reference:
    words = {"shape": "circle"}
    return Reference(text="", mention=Mention(number=1, attributes=words, words=words), **said)  # type: ignore[arg-type]


def scene(*things: Thing) -> Scene:
    return Scene(things=things, background="white", rgb=(255, 255, 255), frame=(), slope=(0.0, 0.0))


def test_what_is_undecided_names_nothing() -> None:
    left, right, middle = thing(0.2, 0.5), thing(0.8, 0.5), thing(0.48, 0.5)
    assert referent(scene(left, right), reference()) is None
    assert referent(scene(left, right), reference(sides=("left",))) is left
    assert referent(scene(left, middle), reference(sides=("left",))) is None  # the second may be on the left as well
    assert referent(scene(middle, right), reference(sides=("left",))) is None  # nor is it clearly there
    assert referent(scene(left, right), reference(extreme="left")) is left
    assert referent(scene(middle, replace(middle, x=0.5)), reference(extreme="left")) is None
    assert referent(scene(left), reference(extreme="left")) is None  # of one thing there is no leftmost


def test_a_relation_needs_a_gap_and_one_other_thing() -> None:
    words = {"shape": "square"}
    other = Mention(number=1, attributes=words, words=words)
    square, above = thing(0.5, 0.5, shape="square"), thing(0.5, 0.2)
    said = reference(relation="above", other=other)
    assert referent(scene(above, square), said) is above
    assert referent(scene(above, square, thing(0.8, 0.8)), said) is above
    assert referent(scene(above, square, thing(0.8, 0.42)), said) is None  # half above as well
    assert referent(scene(thing(0.5, 0.35), square), said) is None
    assert referent(scene(above, square, thing(0.2, 0.8, shape="square")), said) is None


def test_phrases_differ_and_depend_on_the_generator_alone() -> None:
    for index in range(50):
        drawn = sample_scene(seed=1, split="val", index=index)
        first, second = (write_references(random.Random(7), drawn, drawn.things[0]) for _ in range(2))
        assert first == second
        assert len({reference.text for reference in first}) == len(first) <= 3


def test_an_image_has_the_same_phrases_in_a_larger_set(referring: Path) -> None:
    from vlp.scenes.generate import draw_all

    pictures = [drawn[0] for drawn in draw_all(images={"val": 3}, size=64, seed=3)]
    few = pickle.loads(encode_refcoco(pictures, seed=3)["refcoco/refs(unc).p"])
    many = pickle.loads((referring / "refcoco/refs(unc).p").read_bytes())
    by_thing = {ref["ann_id"]: [s["raw"] for s in ref["sentences"]] for ref in many}
    assert all(by_thing[ref["ann_id"]] == [s["raw"] for s in ref["sentences"]] for ref in few)
