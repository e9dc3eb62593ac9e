from __future__ import annotations

from typing import Any

import pytest

from vlp.data.issues import DataError
from vlp.datasets.common.tagged_texts import NAMES, mentioned_objects, object_name, write_text
from vlp.structures import Tag

OBJECTS = ["person", "person", "pottedplant", "person", "dog"]
PEOPLE = {"person"}


def test_tags_become_names_and_their_letters_are_known() -> None:
    tokens = ["Does", [1], "'s", "friend", [0, 3], "like", "the", [2], ",", "or", "not", "?"]
    text, tags = write_text(tokens, OBJECTS, PEOPLE, text=4)
    assert text == "Does Casey's friend Riley and Avery like the potted plant, or not?"
    assert [(text[tag.start : tag.end], tag.boxes, tag.text) for tag in tags] == [
        ("Casey", (1,), 4),
        ("Riley", (0,), 4),
        ("Avery", (3,), 4),
        ("potted plant", (2,), 4),
    ]


def test_three_things_are_listed_and_a_text_may_begin_with_them() -> None:
    text, tags = write_text([[0, 1, 3, 0], "do", "n't", "(", "really", ")", "."], OBJECTS, PEOPLE, text=0)
    assert text == "Riley, Casey and Avery don't (really)."
    assert [tag[1:3] for tag in tags] == [(0, 5), (7, 12), (17, 22)]


def test_a_tag_past_the_objects_names_nobody() -> None:
    assert write_text([[9], "left", "."], OBJECTS, PEOPLE, text=2) == ("someone left.", [Tag(2, 0, 7, ())])


def test_no_two_people_share_a_name() -> None:
    crowd = ["person"] * (2 * len(NAMES) + 1)
    names = [object_name(number, crowd, PEOPLE) for number in range(len(crowd))]
    assert len(set(names)) == len(names)
    assert names[len(NAMES)] == f"{NAMES[0]} 2"


@pytest.mark.parametrize(
    "wrong", [["a", []], ["a", [-1]], ["a", [True]], ["a", [1.0]], ["a", 3], ["a", None], ["a", [[1]]]]
)
def test_what_is_no_tag_is_an_error(wrong: list[Any]) -> None:
    with pytest.raises(DataError, match="neither a word nor a list of the numbers of objects"):
        write_text(wrong, OBJECTS, PEOPLE, text=0)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ([["Is", [4], "near", [1], "?"], ["Yes", "."]], (1, 4)),
        ([["Who", "?"], [[2, 0]]], (0, 2)),
        ([["Is", "Everyone", "here", "?"], ["No", ",", [4]]], (0, 1, 3, 4)),
        ([["Is", "it", "everyones", "?"]], (0, 1, 3)),
        ([["What", "?"], ["Rain", "."]], (0, 1, 3)),  # nobody is named: all people
        ([["Is", [7], "here", "?"]], (0, 1, 3)),  # a tag of no object names nobody
    ],
)
def test_what_is_mentioned(texts: list[list[Any]], named: tuple[int, ...]) -> None:
    assert mentioned_objects(texts, OBJECTS, PEOPLE) == named
