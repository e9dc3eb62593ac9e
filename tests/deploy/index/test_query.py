from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.index.fake_engine import FakeEngine
from tests.deploy.index.photos import draw_photo, save_photo
from vlp.deploy.index.query import WITHOUT_WEIGHT, Filter, embed_query, split_signed
from vlp.system.errors import UserError


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("a red car", ["a red car"], []),
        ("a T-shirt - and +1 more", ["a T-shirt - and +1 more"], []),  # a caption, as it does not begin with a sign
        ("+a beach +a dog −people", ["a beach", "a dog"], ["people"]),
        ("+ a well-lit room - people", ["a well-lit room"], ["people"]),
        ("-people", [], ["people"]),
        ("  +a  ", ["a"], []),
    ],
)
def test_a_text_that_begins_with_a_sign_has_terms(text: str, wanted: list[str], unwanted: list[str]) -> None:
    assert split_signed(text) == (wanted, unwanted)


@pytest.mark.parametrize("text", ["+", "+ -", "+a beach -", "+ + a"])
def test_a_sign_without_words_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a sign without words"):
        split_signed(text)


def test_a_query_is_a_weighted_sum_of_unit_vectors(engine: FakeEngine, tmp_path: Path) -> None:
    red, blue, green = engine.embed_texts(["red", "blue", "green"])
    photo = save_photo(tmp_path / "1.jpg", "yellow")
    seen = engine.embed_images([photo])[0]

    def same(query: np.ndarray, expected: np.ndarray) -> None:
        np.testing.assert_allclose(query, expected / np.linalg.norm(expected), atol=1e-6)

    same(embed_query(engine, text="red"), red)
    same(embed_query(engine, photo=photo), seen)
    same(embed_query(engine, photo=photo.read_bytes(), text="red", weight=0.3), 0.3 * seen + 0.7 * red)
    same(
        embed_query(engine, text="red", without=["blue", "green"]),
        red - WITHOUT_WEIGHT * (blue + green) / np.linalg.norm(blue + green),
    )
    same(
        embed_query(engine, text="+red +green -blue"),
        (red + green) / np.linalg.norm(red + green) - WITHOUT_WEIGHT * blue,
    )
    same(embed_query(engine, photo=seen, without=["blue"]), seen - WITHOUT_WEIGHT * blue)


def test_a_region_is_the_part_of_the_photo_that_counts(engine: FakeEngine, tmp_path: Path) -> None:
    photo = draw_photo("red").resize((200, 100))
    photo.paste(draw_photo("blue").resize((100, 100)), (100, 0))
    photo.save(tmp_path / "1.png")
    expected = engine.embed_images([photo.crop((100, 0, 200, 100))])[0]
    for picture in (tmp_path / "1.png", photo, (tmp_path / "1.png").read_bytes()):
        query = embed_query(engine, photo=picture, region=(0.5, 0, 1, 1))
        np.testing.assert_allclose(query, expected, atol=1e-6)
    with pytest.raises(UserError, match="expected left < right and top < bottom"):
        embed_query(engine, photo=photo, region=(0.5, 0, 0.5, 1))
    with pytest.raises(UserError, match="a region belongs to a photo"):
        embed_query(engine, text="red", region=(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what to search for"),
        ({"text": " "}, "is empty"),
        ({"text": "-blue"}, "not only what must be left out"),
        ({"text": "red", "weight": 1.5}, r"weight=1.5: expected a number from 0"),
        ({"text": "+red -red", "without": ["red"]}, None),  # half of it is left
        ({"photo": np.zeros(32, np.float32)}, "no direction"),
    ],
)
def test_queries_that_cannot_be_answered(engine: FakeEngine, options: dict, message: str | None) -> None:
    if message is None:
        embed_query(engine, **options)
        return
    with pytest.raises(UserError, match=message):
        embed_query(engine, **options)


@pytest.mark.parametrize("text", ["2024-13", "24", "2024-02-30", "yesterday", "2024-1-1", "0000"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no date: write a year, month or day"):
        Filter(since=text)


def test_until_includes_the_day_month_or_year() -> None:
    assert Filter(since="2024", until="2024").period() == (datetime(2024, 1, 1), datetime(2025, 1, 1))
    assert Filter(until="2024-12").period() == (None, datetime(2025, 1, 1))
    assert Filter(until="2024-02").period() == (None, datetime(2024, 3, 1))
    assert Filter(until="2024-02-29").period() == (None, datetime(2024, 3, 1))
    assert Filter(until="9999").period() == (None, None)
    with pytest.raises(UserError, match="no photo can be of both"):
        Filter(since="2024-06", until="2024-05-31")
    Filter(since="2024-05-31", until="2024-05")
