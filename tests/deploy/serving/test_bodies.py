"""JSON and forms that are not what they should be are one sentence, and nothing gets onto the disk."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest

from tests.deploy.serving.fake_engine import FakeEngine, photo
from tests.deploy.serving.requests_to import ask, error_of, post
from vlp.deploy.serving.app import create_app

FORM = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def app() -> Any:
    return create_app(FakeEngine(), warm=True)


def send(app: Any, content: bytes, kind: str | None, path: str = "/v1/match") -> Any:
    headers = {} if kind is None else {"Content-Type": kind}
    return ask(app, lambda client: client.post(path, content=content, headers=headers))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"a"', b"null", b'{"input": NaN}', b'{"input": Infinity}', b'{"input": "\xff"}', b'{"input": "\\ud800"}',
     b"[" * 100_000, b'{"a":' * 50_000, b"\x00", b'{"input": "a"}}', b'{"input": 1e999}'],
)  # fmt: skip
def test_no_json(app: Any, content: bytes) -> None:
    answer = send(app, content, "application/json", "/v1/embeddings")
    assert answer.status_code == 400, answer.text
    error_of(answer)


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "image/jpeg",
        "multipart/mixed; boundary=b",
    ],
)
def test_content_types(app: Any, kind: str | None) -> None:
    answer = send(app, b'{"input": "a"}', kind)
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")


def test_json_with_a_charset(app: Any) -> None:
    assert send(app, b'{"input": "a"}', "application/json; charset=utf-8", "/v1/embeddings").status_code == 200


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    named = f'; filename="{file}"' if file else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged"),
        (b"--b\r\nnonsense", "damaged"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "damaged"),
        (part("image", photo(), "a.jpg")[:-300], "damaged"),
        (part("image", b"x", "a") * 2 + b"--b--\r\n", "damaged"),
        (part("photo", photo(), "a.jpg") + b"--b--\r\n", "call it image"),
        (part("weight", b"1") * 2 + part("texts", b"a") + b"--b--\r\n", "is given twice"),
        (part("file", b"1") + part("texts", b"a") + b"--b--\r\n", "there is no field 'file'"),
        (part("texts", b"a") * 1_001 + b"--b--\r\n", "damaged"),
    ],
)
def test_damaged_forms(app: Any, content: bytes, words: str) -> None:
    answer = send(app, content, FORM)
    assert answer.status_code == 400, answer.text
    assert words in error_of(answer)["message"]


def test_a_form_without_a_boundary(app: Any) -> None:
    assert send(app, part("texts", b"a"), "multipart/form-data").status_code == 400


def test_uploads_do_not_get_onto_the_disk(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    large = photo(size=(1_500, 1_200), kind="PNG") + b"\0" * 3_000_000
    answer = post(app, "/v1/caption", files={"image": ("a.png", large)})
    assert answer.status_code == 200
