"""Search over a real index, by words, by a photo and by both; photos are named by ids alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.deploy.serving.fake_engine import FakeEngine, photo
from tests.deploy.serving.photo_index import COLORS, make_index
from tests.deploy.serving.requests_to import data_uri, error_of, get, post
from vlp.deploy.index.photo_index import open_index
from vlp.deploy.serving.app import create_app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    engine = FakeEngine()
    index = open_index(make_index(tmp_path_factory.mktemp("photos"), engine), engine)
    yield create_app(engine, index, warm=True)
    index.close()


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [Path(item["path"]).stem for item in answer.json()["photos"]]


def test_by_a_photo(app: Any) -> None:
    for color in COLORS[:3]:
        found = post(app, "/v1/search", {"image": data_uri(photo(color, kind="PNG"), "png"), "k": 2})
        assert names(found)[0] == color
        assert len(names(found)) == 2
        assert found.json()["photos"][0]["score"] == pytest.approx(1, abs=1e-2)
        form = post(app, "/v1/search", data={"k": "2"}, files={"image": ("a.png", photo(color, kind="PNG"))})
        assert form.json() == found.json()


def test_by_words_as_the_index_itself(app: Any) -> None:
    index = app.state.serving.model.index
    expected = [hit.id for hit in index.search("a red car", k=3)]
    for answer in (get(app, "/v1/search?q=a+red+car&k=3"), post(app, "/v1/search", {"q": "a red car", "k": 3})):
        assert [item["id"] for item in answer.json()["photos"]] == expected
    signed = get(app, "/v1/search", params={"q": "+a red car -people", "k": 3})
    assert [item["id"] for item in signed.json()["photos"]] == [h.id for h in index.search("+a red car -people", k=3)]


def test_by_both_and_by_a_photo_of_the_index(app: Any) -> None:
    index = app.state.serving.model.index
    red = photo("red", kind="PNG")
    both = post(app, "/v1/search", {"q": "x", "image": data_uri(red, "png"), "weight": 0.25})
    assert [item["id"] for item in both.json()["photos"]] == [h.id for h in index.search("x", red, weight=0.25)]
    (first, *_) = both.json()["photos"]
    like = get(app, f"/v1/search?like={first['id']}")
    assert like.json()["photos"][0]["id"] == first["id"]


def test_thumbnails(app: Any) -> None:
    found = get(app, "/v1/search?q=a")
    assert found.status_code == 200, found.text
    for item in found.json()["photos"]:
        answer = get(app, item["thumbnail"])
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(PIL.Image.open(io.BytesIO(answer.content)).size) <= 320


@pytest.mark.parametrize(
    "name",
    [
        "999999",
        "-1",
        "1.0",
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2fmanifest.json",
        "1%00",
        "٣",
        "9" * 400,
        "/etc/passwd",
    ],
)
def test_thumbnails_are_of_the_index_alone(app: Any, name: str) -> None:
    answer = get(app, f"/v1/photos/{name}/thumbnail")
    assert answer.status_code == 404
    error_of(answer)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("?", "say what to search for"),
        ("?q=", "q: String should have at least 1 character"),
        ("?q=a&k=0", "k: Input should be greater"),
        ("?q=a&k=1001", "k: Input should be less"),
        ("?q=a&q=b", "twice"),
        ("?q=a&path=/etc", "there is no field 'path'"),
        ("?like=123456", "no photo has the id"),
        ("?q=a&since=yesterday", "is no date"),
        ("?image=http://a/b.jpg", "fetches nothing"),
    ],
)
def test_mistakes(app: Any, address: str, words: str) -> None:
    answer = get(app, "/v1/search" + address)
    assert answer.status_code == 400, answer.text
    assert words in error_of(answer)["message"]


def test_uploads_are_checked(app: Any) -> None:
    answer = post(app, "/v1/search", {"image": "data:image/png;base64," + base64.b64encode(b"text").decode()})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_image")


def test_without_an_index() -> None:
    app = create_app(FakeEngine(), warm=True)
    for path in ("/v1/search?q=a", "/v1/photos/1/thumbnail"):
        assert error_of(get(app, path))["code"] == "no_index"
