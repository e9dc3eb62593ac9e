"""Requests that nobody sends by mistake: bombs, cuts, lies about lengths, broken JSON, paths, keys, and connections that dawdle.

Each is the raw bytes of a connection, whether it closes its side at the end, and the statuses that may answer it; () = none at all.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.deploy.serving.fake_engine import photo
from tests.deploy.serving.test_pictures import bomb

KEY = "k3y-of-twenty-letters"
REFUSED = (400, 401, 403, 404, 405, 408, 413, 415, 422, 431)
PATHS = ("embeddings", "classify", "match", "answer", "caption", "detect", "segment", "heat", "search")


@dataclass(frozen=True)
class OddRequest:
    """kind: for reports.  allowed: statuses.  pause: seconds before the last byte."""

    kind: str
    data: bytes
    allowed: tuple[int, ...] = REFUSED
    pause: float = 0.0


def odd_requests(count: int, seed: int = 0) -> Iterator[OddRequest]:
    """The kinds take turns; sizes, positions and letters are drawn."""
    rng = random.Random(seed)
    bombs = [
        bomb(9_000, 9_000),
        bomb(30_000, 30_000),
        photo(size=(1_200, 1_000), kind="PNG"),
        photo(size=(16_000, 100), kind="WEBP"),
    ]
    good = photo(size=(64, 48))
    makers = (
        wrong_key, no_key, wrong_json, deep_json, not_a_number, wrong_type, wrong_fields, cut_photo, noise, text_as_photo,
        path_trick, method, large_header, many_headers, wrong_length, cut_body, broken_form, fetch, long_text, many_items,
        no_http, chunk_lies, dribble,
    )  # fmt: skip
    for number in range(count):
        maker = makers[number % len(makers)]
        yield maker(rng, good)
        if number % 50 == 0:
            yield picture_request(rng, bombs[(number // 50) % len(bombs)], "bomb")


def request(
    method: str,
    path: str,
    body: bytes = b"",
    *headers: str,
    key: str | None = KEY,
    kind: str | None = "application/json",
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def picture_request(rng: random.Random, data: bytes, kind: str) -> OddRequest:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    path = rng.choice(PATHS)
    more = {"match": {"texts": ["a"]}, "answer": {"question": "a"}, "heat": {"phrase": "a"}}.get(path, {})
    fields = {"input": uri, "modality": "image"} if path == "embeddings" else {"image": uri, **more}
    return OddRequest(kind, request("POST", f"/v1/{path}", json.dumps(fields).encode()))


def letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("abcxyz019 _-") for _ in range(count))


def wrong_key(rng: random.Random, good: bytes) -> OddRequest:
    key = rng.choice([KEY[:-1], KEY + "a", KEY.upper(), "", letters(rng, 30), "\xff" * 20, KEY[::-1]])
    return OddRequest("wrong key", request("POST", "/v1/embeddings", b'{"input": "a"}', key=key), (401, 400))


def no_key(rng: random.Random, good: bytes) -> OddRequest:
    path = rng.choice(
        [
            "/v1/models",
            "/metrics",
            "/v1/search?q=a",
            "/v1/photos/1/thumbnail",
            "//v1/models",
            "/v1/../v1/models",
            "/page.css/../metrics",
        ]
    )
    return OddRequest("no key", request("GET", path, key=None), (401, 404, 400))


def wrong_json(rng: random.Random, good: bytes) -> OddRequest:
    body = bytearray(b'{"input": ["a red car", "b"], "model": "fake"}')
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return OddRequest("wrong json", request("POST", "/v1/embeddings", bytes(body)), (*REFUSED, 200))


def deep_json(rng: random.Random, good: bytes) -> OddRequest:
    depth = rng.choice([100, 1_000, 5_000, 100_000])
    body = b'{"input": ' + rng.choice([b"[", b'{"a":']) * depth
    return OddRequest("deep json", request("POST", "/v1/embeddings", body))


def not_a_number(rng: random.Random, good: bytes) -> OddRequest:
    word = rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-0.5", "1e-400", "12345678901234567890123"])
    body = f'{{"input": "a", "dimensions": {word}}}'
    return OddRequest("not a number", request("POST", "/v1/embeddings", body.encode()))


def wrong_type(rng: random.Random, good: bytes) -> OddRequest:
    kind = rng.choice(
        [
            None,
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "image/png",
            "a" * 500,
            "multipart/mixed",
        ]
    )
    return OddRequest("wrong content type", request("POST", f"/v1/{rng.choice(PATHS)}", b'{"input": "a"}', kind=kind))


def wrong_fields(rng: random.Random, good: bytes) -> OddRequest:
    value = rng.choice(
        [
            None,
            1,
            1.5,
            [],
            {},
            [[]],
            [{}],
            [None],
            True,
            "",
            ["a", 1],
            {"text": "a"},
            [{"image": "a", "text": "b"}],
            {"image": {}},
            [[["a"]]],
        ]
    )
    field = rng.choice(
        ["input", "image", "texts", "question", "labels", "threshold", "model", "__proto__", letters(rng, 8)]
    )
    body = json.dumps({field: value}).encode()
    path = rng.choice(PATHS)
    allowed = (*REFUSED, 200) if path == "embeddings" and value == {"text": "a"} else REFUSED
    return OddRequest("wrong fields", request("POST", f"/v1/{path}", body), allowed)


def cut_photo(rng: random.Random, good: bytes) -> OddRequest:
    return picture_request(rng, good[: rng.randrange(len(good) - 3)], "cut photo")


def noise(rng: random.Random, good: bytes) -> OddRequest:
    data = bytearray(good)
    for _ in range(rng.randint(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    odd = picture_request(rng, bytes(data), "noise in a photo")
    return OddRequest(odd.kind, odd.data, (*REFUSED, 200))  # some noise leaves a photo


def text_as_photo(rng: random.Random, good: bytes) -> OddRequest:
    head = rng.choice(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x00\x00\x00\x00WEBP",
            b"GIF89a",
            b"%!PS-Adobe",
            b"BM",
            b"<svg",
        ]
    )
    return picture_request(rng, head + rng.randbytes(rng.randint(0, 3_000)), "no photo")


def path_trick(rng: random.Random, good: bytes) -> OddRequest:
    inside = rng.choice(
        [
            "../../../etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/manifest.json",
            "1%00.jpg",
            "-1",
            "1e3",
            "0x1",
            "٣",
            "9" * 300,
            "..\\..\\a",
            "%c0%ae%c0%ae/",
            "1;2",
            "file:///etc/passwd",
        ]
    )
    path = rng.choice(
        [f"/v1/photos/{inside}/thumbnail", f"/{inside}", f"/page.css/{inside}", f"/v1/photos/{inside}", f"//{inside}"]
    )
    return OddRequest("path trick", request("GET", path.encode().decode("latin-1")), (404, 400, 405))


def method(rng: random.Random, good: bytes) -> OddRequest:
    name = rng.choice(["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "PROPFIND"])
    return OddRequest("method", request(name, rng.choice(["/v1/embeddings", "/", "/metrics"])), (405, 400, 404))


def large_header(rng: random.Random, good: bytes) -> OddRequest:
    return OddRequest(
        "large header", request("GET", "/v1/models", b"", "X: " + "a" * rng.randint(40_000, 200_000)), (431, 400)
    )


def many_headers(rng: random.Random, good: bytes) -> OddRequest:
    lines = [f"X-{number}: {letters(rng, 30)}" for number in range(rng.randint(1_500, 4_000))]
    return OddRequest("many headers", request("GET", "/v1/models", b"", *lines), (431, 400))


def wrong_length(rng: random.Random, good: bytes) -> OddRequest:
    length = rng.choice(["-1", "abc", "99999999999999999999", "1e3", "0x10", "5, 6", str(200 << 20)])
    return OddRequest("wrong length", request("POST", "/v1/embeddings", b'{"input": "a"}', f"Content-Length: {length}"))


def cut_body(rng: random.Random, good: bytes) -> OddRequest:
    data = request("POST", "/v1/embeddings", b'{"input": "' + b"a" * 500 + b'"}')
    return OddRequest("cut body", data[: -rng.randint(1, 500)], (400, 408))


def broken_form(rng: random.Random, good: bytes) -> OddRequest:
    part = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        + good
        + b"\r\n"
    )
    body = rng.choice(
        [
            part[: rng.randrange(len(part))],
            part * 2 + b"--b--\r\n",
            b"--b--\r\n",
            b"--b\r\nX: " + b"a" * 5_000,
            b"\r\n" * 1_000,
            b"--b\r\n" * 500,
        ]
    )
    return OddRequest("broken form", request("POST", "/v1/caption", body, kind="multipart/form-data; boundary=b"))


def fetch(rng: random.Random, good: bytes) -> OddRequest:
    url = rng.choice(
        [
            "http://127.0.0.1:1/a.jpg",
            "https://localhost/",
            "file:///etc/passwd",
            "ftp://a",
            "gopher://a",
            "//a/b.jpg",
            "/etc/passwd",
            "\\\\a\\b",
            "data:text/html,a",
            "data:image/png;base64,####",
        ]
    )
    return OddRequest("fetching", request("POST", "/v1/caption", json.dumps({"image": url}).encode()))


def long_text(rng: random.Random, good: bytes) -> OddRequest:
    return OddRequest(
        "long text",
        request("POST", "/v1/embeddings", json.dumps({"input": "a " * rng.randint(11_000, 300_000)}).encode()),
        (413,),
    )


def many_items(rng: random.Random, good: bytes) -> OddRequest:
    return OddRequest(
        "many items",
        request("POST", "/v1/embeddings", json.dumps({"input": ["a"] * rng.randint(257, 9_000)}).encode()),
        (413,),
    )


def no_http(rng: random.Random, good: bytes) -> OddRequest:
    return OddRequest(
        "no http",
        rng.choice(
            [
                rng.randbytes(200),
                b"\x16\x03\x01\x02\x00\x01",
                b"GET\r\n\r\n",
                b"\r\n" * 50,
                b"GET / HTTP/3.7\r\n\r\n",
                b" " * 100,
            ]
        ),
        (400, 408),
    )


def chunk_lies(rng: random.Random, good: bytes) -> OddRequest:
    body = rng.choice(
        [
            b"zz\r\na\r\n0\r\n\r\n",
            b"5\r\nab\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\na",
            b"-1\r\na\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
        ]
    )
    return OddRequest(
        "chunk lies", request("POST", "/v1/embeddings", body, "Transfer-Encoding: chunked"), (400, 408, 413)
    )


def dribble(rng: random.Random, good: bytes) -> OddRequest:
    data = request("POST", "/v1/embeddings", b'{"input": "a"}')
    return OddRequest("slow client", data[: rng.randrange(1, len(data))], (400, 408), pause=rng.choice([0.0, 0.05]))
