from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlp.data.image_ids import OTHER_BASE, image_id_from_path
from vlp.data.images import ImageError
from vlp.data.shards.record import sample_from_record, sample_to_json
from vlp.structures import Blank, Member, Sample, Tag

IMAGE = Member(archive=Path("a.tar"), name="0.jpg", offset=512, size=9)
FULL = Sample(
    id=7, sample=3, image=IMAGE, captions=("a dog", "two"), question="what?", choices=("x", "y"), answers=("a", "a"),
    answer_weight=0.5, question_type="what", answer_type="other", label=1, categories=(2, 5),
    also_true=((1, 2), ()), boxes=((0.0, 1.0, 2.0, 3.0),), box_labels=(4,), box_crowds=(True,),
    box_captions=(1,), box_masks=([[0.0, 1.0, 2.0, 1.0, 2.0, 3.0]],), absent_categories=(), not_exhaustive=(6,), as_stored=True,
    blanks=(Blank(caption=0, start=2, end=5, words=("dog", "hound")),),
    rationales=("so", "thus"), rationale_label=0, tags=(Tag(0, 1, 3, (0,)), Tag(3, 0, 2, ())), marks=(0,),
    mark_colours=((0, 255, 9),),
)  # fmt: skip


def read(record: Any, number: int = 11) -> Sample:
    return sample_from_record(record, image=IMAGE, number=number)


def test_a_sample_comes_back_as_it_was() -> None:
    assert read(json.loads(sample_to_json(FULL))) == FULL


def test_the_id_of_a_photo_that_is_known_by_its_path_comes_back() -> None:
    sample = Sample(id=image_id_from_path("film/1.jpg"), sample=3, image=IMAGE, captions=("a dog",))
    assert read(json.loads(sample_to_json(sample))).id == sample.id >= OTHER_BASE


def test_having_no_box_is_not_the_same_as_not_knowing_boxes() -> None:
    for boxes in (None, ()):
        sample = Sample(id=7, sample=3, image=IMAGE, captions=("a dog",), boxes=boxes)
        assert read(json.loads(sample_to_json(sample))).boxes == boxes


def test_a_foreign_id_is_not_that_of_a_known_photo() -> None:
    sample = read({"id": 7, "sample": 9, "caption": " a  dog "})
    assert sample.id >= OTHER_BASE
    assert (sample.sample, sample.captions) == (11, ("a dog",))
    assert read({"id": 8, "caption": "a dog"}).id == sample.id
    assert read({"url": "http://x/1.jpg", "caption": "a dog"}).id != sample.id


OTHERS: list[dict[str, Any]] = [
    {"boxes": [1, 2]}, {"answer_weight": None}, {"answer_weight": "x"}, {"label": "cat"}, {"label": 2**80},
    {"categories": ["cat"]}, {"blanks": [{"caption": 0}]}, {"also_true": [3]}, {"boxes": [[0, 1, 2, "x"]]}, {"label": [1]},
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_other_columns_of_a_foreign_record_mean_nothing(other: dict[str, Any]) -> None:
    assert read({"caption": "a dog", **other}) == read({"caption": "a dog"})


@pytest.mark.parametrize(
    "wrong",
    [
        [], "text", 3, {}, {"captions": []}, {"captions": [3]}, {"captions": {"a": 1}}, {"choices": 3}, {"question": 3},
        {"vlp": 1, "id": 2**70, "sample": 0}, {"vlp": 1, "id": -3, "sample": 0}, {"vlp": 1},
        *({"vlp": 1, "id": 1, "sample": 1, **wrong} for wrong in OTHERS),
    ],
)  # fmt: skip
def test_what_is_no_sample_is_one_sentence_with_its_place(wrong: Any) -> None:
    record = {"caption": "a dog", **wrong} if isinstance(wrong, dict) and wrong and "captions" not in wrong else wrong
    with pytest.raises(ImageError, match=r"a\.tar!512\+9/0\.jpg: "):
        read(record)


def test_a_label_of_minus_one_is_an_unknown_one() -> None:
    assert read({"caption": "a dog", "label": -1}).label is None
    assert read({"label": "3"}).label == 3


def test_answers_may_be_numbers() -> None:
    record = {"question": "how many?", "answers": [2, "two", 2.0, 0.5]}
    assert read(record).answers == ("2", "two", "2", "0.5")
    with pytest.raises(ImageError, match="True is no text"):
        read({**record, "answers": [True]})
