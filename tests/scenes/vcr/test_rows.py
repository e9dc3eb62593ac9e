"""Each question is judged by what its words say of the things in its picture."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from tests.scenes.vcr.judge import answers, is_true
from vlp.data.marks import SCENE_COLOURS
from vlp.scenes.scene import BACKGROUNDS, COLOURS
from vlp.scenes.vcr import templates
from vlp.scenes.vcr.rows import Row, write_row

COUNT = 240


@cache
def rows() -> list[Row]:
    return [write_row(seed=1, split="train", index=index, size=64) for index in range(COUNT)]


def tags(texts: list[list[Any]]) -> set[int]:
    return {tag for tokens in texts for token in tokens if isinstance(token, list) for tag in token}


def test_just_one_answer_is_right_and_just_one_rationale_true() -> None:
    for row in rows():
        official, things = row.official, row.metadata["things"]
        right = [number == official["answer_label"] for number in range(4)]
        assert answers(official, things) == right, official
        true = [number == official["rationale_label"] for number in range(4)]
        assert [is_true(tokens, things) for tokens in official["rationale_choices"]] == true, official


def test_rationales_name_the_same_things_and_kinds_of_words() -> None:
    kind = {word: name for name, words in templates.WORDS.items() for word in words}
    kind |= dict.fromkeys((*templates.ROWS, *templates.COLUMNS), "cell")
    for row in rows():
        forms = {
            tuple(kind.get(token, token) if isinstance(token, str) else tuple(token) for token in tokens)
            for tokens in row.official["rationale_choices"]
        }
        assert len(forms) == 1
        assert len({str(tokens) for tokens in row.official["rationale_choices"]}) == 4


def test_all_wrong_rationales_lead_to_the_right_answer() -> None:
    """If what a rationale says were so, just the right answer would be right."""
    for row in rows():
        official, things = row.official, row.metadata["things"]
        for tokens in official["rationale_choices"]:
            supposed = [dict(thing) for thing in things]
            first, second = tags([tokens])
            for number, part in _said(tokens):
                supposed[number] |= part
            if official["question"][0] == "Who":  # of the two that are named alone
                assert {first, second} == {*tags([official["question"]]), *tags([_right(official)])}
                name = "colour" if "color" in official["question"] else "shape"
                assert supposed[first][name] == supposed[second][name]
            else:
                assert answers(official, supposed)[official["answer_label"]], (official, tokens)


def _right(official: dict[str, Any]) -> list[Any]:
    chosen: list[Any] = official["answer_choices"][official["answer_label"]]
    return chosen


def _said(tokens: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    kind = {word: name for name, words in templates.WORDS.items() for word in words}
    said: list[tuple[int, dict[str, Any]]] = []
    for position, token in enumerate(tokens):
        if isinstance(token, list):
            said.append((token[0], {}))
        elif token in kind:
            said[-1][1][kind[token]] = token
        elif token in templates.ROWS and tokens[position - 1] == "the":
            said[-1][1]["cell"] = (templates.ROWS.index(token), templates.COLUMNS.index(tokens[position + 1]))
    return said


def test_every_template_and_every_number_of_things() -> None:
    kinds = Counter(row.official["question_type"] for row in rows())
    assert set(kinds) == set(templates.TEMPLATES)
    assert {len(row.official["objects"]) for row in rows()} == {4, 5, 6}
    assert {row.official["answer_label"] for row in rows()} == {0, 1, 2, 3}


def test_mixed_rationales_have_one_of_each_kind() -> None:
    for row in rows():
        mixed, things = row.mixed, row.metadata["things"]
        about = tags([row.official["rationale_choices"][0]])
        choices = [
            tokens for number, tokens in enumerate(mixed["rationale_choices"]) if number != mixed["rationale_label"]
        ]
        true = mixed["rationale_choices"][mixed["rationale_label"]]
        assert true == row.official["rationale_choices"][row.official["rationale_label"]]
        kinds = sorted((tags([tokens]) == about, is_true(tokens, things)) for tokens in choices)
        assert kinds == [(False, True), (True, False), (True, True)]


def test_boxes_surround_things_that_leave_room_for_lines() -> None:
    for row in rows()[:60]:
        boxes = np.array(row.metadata["boxes"])[:, :4]
        assert (boxes[:, :2] >= 2).all()
        assert (boxes[:, 2:] <= 62).all()
        for number, box in enumerate(boxes):
            for other in boxes[number + 1 :]:
                gaps = np.maximum(box[:2] - other[2:], other[:2] - box[2:])
                assert gaps.max() >= 3, "lines of two pixels would hide a thing"
        sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
        large = np.array([thing["size"] == "large" for thing in row.metadata["things"]])
        assert not large.any() or sides[large].min() >= 13
        assert large.all() or sides[~large].max() <= 11


def test_polygons_lie_in_their_boxes() -> None:
    for row in rows()[:20]:
        for box, (points,) in zip(row.metadata["boxes"], row.metadata["segms"], strict=True):
            corners = np.array(points)
            assert (corners.min(0) >= np.array(box[:2]) - 1).all()
            assert (corners.max(0) <= np.array(box[2:4]) + 1).all()


def test_marks_have_no_colour_of_a_thing_or_the_ground() -> None:
    for mark in SCENE_COLOURS:
        for name in templates.COLOURS:
            assert not _within(mark, COLOURS[name])
        assert not _within(mark, BACKGROUNDS["gray"])


def _within(colour: tuple[int, int, int], ranges: Any) -> bool:
    import colorsys

    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    (low, high), of_saturation, of_value = ranges
    turned = any(low <= 360 * hue + turn <= high for turn in (-360, 0, 360))
    return turned and of_saturation[0] <= saturation <= of_saturation[1] and of_value[0] <= value <= of_value[1]


def test_a_question_depends_on_seed_split_and_number_alone() -> None:
    again = write_row(seed=1, split="train", index=7, size=64)
    assert again.official == rows()[7].official
    assert (again.pixels == rows()[7].pixels).all()
    others = [write_row(seed=2, split="train", index=7, size=64), write_row(seed=1, split="val", index=7, size=64)]
    assert all((other.pixels != again.pixels).any() for other in others)
