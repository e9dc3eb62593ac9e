"""Each verb by JSON and by form, with the engine's own answer."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.deploy.serving.fake_engine import FakeEngine, photo
from tests.deploy.serving.requests_to import data_uri, error_of, post
from vlp.deploy.serving.app import create_app
from vlp.deploy.serving.limits import ServingLimits

RED = photo("red")
BOX = [10.0, 5.0, 30.0, 20.0]
FIELDS: dict[str, dict[str, Any]] = {
    "classify": {"labels": ["cat", "dog", "car"]},
    "match": {"texts": ["a", "b"]},
    "answer": {"question": "is it red?"},
    "caption": {},
    "detect": {"labels": ["cat"], "threshold": 0.5},
    "segment": {"labels": ["cat", "dog"]},
    "heat": {"phrase": "the cat"},
}


@pytest.fixture(scope="module")
def app() -> Any:
    return create_app(FakeEngine(), warm=True, limits=ServingLimits(pixels=20_000_000))


def by_json(app: Any, verb: str, **more: Any) -> Any:
    return post(app, f"/v1/{verb}", {"image": data_uri(RED), **FIELDS[verb], **more})


@pytest.mark.parametrize("verb", FIELDS)
def test_a_form_answers_as_json(app: Any, verb: str) -> None:
    form = post(app, f"/v1/{verb}", data=FIELDS[verb], files={"image": ("../../a.jpg", RED)})
    assert form.status_code == 200, form.text
    assert form.json() == by_json(app, verb).json()


def test_classify(app: Any) -> None:
    labels = by_json(app, "classify").json()["labels"]
    (expected,) = FakeEngine().classify([RED], ["cat", "dog", "car"])
    assert {item["label"]: pytest.approx(item["score"]) for item in labels} == expected
    assert [item["score"] for item in labels] == sorted(expected.values(), reverse=True)
    own = post(app, "/v1/classify", {"image": data_uri(RED)}).json()["labels"]
    assert {item["label"] for item in own} == {"cat", "dog"}


def test_match(app: Any) -> None:
    expected = FakeEngine().match([RED, RED], ["a", "b"])
    matches = by_json(app, "match").json()["matches"]
    assert [item["text"] for item in matches] == ["a", "b"]
    assert [item["score"] for item in matches] == pytest.approx(expected.tolist())


def test_answer(app: Any) -> None:
    assert by_json(app, "answer").json()["answers"][0] == {"answer": "yes", "score": 0.5}
    assert by_json(app, "answer", answers=["red", "blue"]).json()["answers"][0]["answer"] == "red"


def test_caption(app: Any) -> None:
    assert by_json(app, "caption").json() == {"caption": FakeEngine().caption([RED])[0]}


def test_detect(app: Any) -> None:
    (thing,) = by_json(app, "detect").json()["objects"]
    assert thing == {"label": "cat", "score": 0.75, "box": BOX}
    assert by_json(app, "detect", threshold=0.9).json() == {"objects": []}
    (thing,) = by_json(app, "detect", masks=True).json()["objects"]
    mask = read_map(thing["mask"])
    assert mask.shape == (30, 40)
    assert mask.astype(bool).sum() == 15 * 20


def test_segment(app: Any) -> None:
    content = by_json(app, "segment").json()
    assert (content["names"], content["size"]) == (["cat", "dog"], [30, 40])
    np.testing.assert_array_equal(read_map(content["classes"]), FakeEngine().segment([RED])[0]["classes"])


def test_heat(app: Any) -> None:
    content = by_json(app, "heat").json()
    assert (content["box"], content["score"]) == (BOX, 0.5)
    assert np.shape(content["heat"]) == (3, 4)


def read_map(uri: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("verb", FIELDS)
def test_a_verb_that_the_model_lacks(verb: str) -> None:
    app = create_app(FakeEngine(verbs=("embed_texts",)), warm=True)
    answer = by_json(app, verb)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "verb_missing")


@pytest.mark.parametrize(
    ("verb", "fields", "words"),
    [
        ("caption", {"image": None}, "send one photo"),
        ("caption", {"image": "http://a/b.jpg"}, "fetches nothing"),
        ("caption", {"image": data_uri(b"text")}, "no photo that can be read"),
        ("caption", {"image": data_uri(RED[:-20])}, "cut off or damaged"),
        ("answer", {"question": ""}, "question: String should have at least 1 character"),
        ("classify", {"labels": []}, "labels: List should have at least 1 item"),
        ("classify", {"labels": "cat"}, "labels: Input should be a valid list"),
        ("detect", {"threshold": 2}, "threshold"),
        ("match", {"texts": ["a"] * 2_001}, "at most 2000 items"),
    ],
)
def test_mistakes(app: Any, verb: str, fields: dict[str, Any], words: str) -> None:
    answer = by_json(app, verb, **fields)
    assert answer.status_code == 400, answer.text
    assert words in error_of(answer)["message"]


def test_photos_whose_maps_would_be_huge_are_refused(app: Any) -> None:
    large = data_uri(photo(size=(4_100, 4_000), kind="PNG"), "png")
    for verb, status in (("detect", 413), ("segment", 413), ("caption", 200)):
        answer = post(app, f"/v1/{verb}", {**FIELDS[verb], "image": large})
        assert answer.status_code == status, answer.text


def test_a_photo_twice_is_refused(app: Any) -> None:
    answer = post(app, "/v1/caption", data={"image": data_uri(RED)}, files={"image": ("a.jpg", RED)})
    assert answer.status_code == 400
