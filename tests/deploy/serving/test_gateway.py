"""Keys, hosts, sizes, times and headers, before any route and after every answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.deploy.serving.fake_engine import FakeEngine
from tests.deploy.serving.requests_to import ask, error_of, get, post
from vlp.deploy.serving.app import create_app
from vlp.deploy.serving.gateway import OPEN_PATHS
from vlp.deploy.serving.limits import ServingLimits

KEY = "k3y-of-twenty-letters"
CLOSED = ("/v1/models", "/metrics", "/v1/search?q=a", "/v1/photos/1/thumbnail", "/nothing")


def make_app(key: str | None = None, **limits: Any) -> Any:
    return create_app(FakeEngine(), key=key, warm=True, limits=ServingLimits(**limits))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        KEY,
        f"bearer {KEY}",
        f"Bearer {KEY} ",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Basic YTpi",
        "Bearer käse",
    ],
)
def test_a_wrong_key_opens_nothing(header: str | None) -> None:
    app = make_app(KEY)
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for path in CLOSED:
        answer = get(app, path, headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert post(app, "/v1/embeddings", {"input": "a"}, headers=headers).status_code == 401


def test_the_key_opens_everything() -> None:
    app = make_app(KEY)
    assert post(app, "/v1/embeddings", {"input": "a"}, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert get(app, "/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_pages_and_health_are_open() -> None:
    app = make_app(KEY)
    for path in OPEN_PATHS:
        assert get(app, path).status_code == 200, path


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_names_of_the_loopback(host: str) -> None:
    assert get(make_app(), "/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", ""])
def test_without_a_key_a_foreign_name_is_refused(host: str) -> None:
    """A page of evil.example, whose name points to 127.0.0.1 by now, reads no photos."""
    answer = get(make_app(), "/v1/models", headers={"Host": host})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "foreign_host")
    keyed = get(make_app(KEY), "/v1/models", headers={"Host": host, "Authorization": f"Bearer {KEY}"})
    assert keyed.status_code == 200


def test_without_a_key_other_pages_are_refused() -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert get(make_app(), "/v1/models", headers={"Sec-Fetch-Site": site}).status_code == status


def test_answers_carry_security_headers() -> None:
    for path in ("/", "/v1/models", "/nothing", "/health"):
        headers = get(make_app(), path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_a_large_body_is_refused_by_its_header() -> None:
    app = make_app(body_bytes=1_000)
    answer = post(app, "/v1/embeddings", {"input": "a" * 1_000})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


def test_a_large_body_is_refused_while_it_comes() -> None:
    app, sent = make_app(body_bytes=1_000), 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1_000):
            sent += 100
            yield b"x" * 100

    headers = {"Content-Type": "application/json"}
    answer = ask(app, lambda client: client.post("/v1/embeddings", content=chunks(), headers=headers))
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert sent <= 1_200
    assert app.state.serving.bodies_bytes == 0


def test_all_bodies_together_are_bounded() -> None:
    app = make_app(body_bytes=1_000, bodies_bytes=1_000)

    async def work(client: Any) -> None:
        release = asyncio.Event()

        async def slow() -> Any:
            yield b'{"input": "' + b"a" * 600
            await release.wait()
            yield b'"}'

        headers = {"Content-Type": "application/json"}
        first = asyncio.create_task(client.post("/v1/embeddings", content=slow(), headers=headers))
        while app.state.serving.bodies_bytes < 600:
            await asyncio.sleep(0.001)
        second = await client.post("/v1/embeddings", json={"input": "a" * 600})
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        release.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/embeddings", json={"input": "a" * 600})).status_code == 200

    ask(app, work)


def test_a_slow_body_is_408() -> None:
    app = make_app(body_seconds=0.1)

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(20)
        yield b"}"

    headers = {"Content-Type": "application/json"}
    answer = ask(app, lambda client: client.post("/v1/embeddings", content=slow(), headers=headers))
    assert (answer.status_code, error_of(answer)["code"]) == (408, "slow_request")


@pytest.mark.parametrize("length", ["-1", "1e9", "٣", "", "9" * 30])
def test_a_wrong_content_length(length: str) -> None:
    headers = {"Content-Length": length.encode(), "Content-Type": "application/json"}
    answer = ask(make_app(), lambda client: client.post("/v1/embeddings", content=b"{}", headers=headers))
    assert answer.status_code in (400, 413)


def test_while_warming_up_and_shutting_down() -> None:
    app = create_app(FakeEngine())
    assert get(app, "/health").status_code == 200
    assert (get(app, "/ready").status_code, post(app, "/v1/embeddings", {"input": "a"}).status_code) == (503, 503)
    app.state.serving.ready = True
    assert (get(app, "/ready").status_code, post(app, "/v1/embeddings", {"input": "a"}).status_code) == (200, 200)
    app.state.serving.draining = True
    answer = post(app, "/v1/embeddings", {"input": "a"})
    assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    assert "shutting down" in error_of(answer)["message"]
    assert get(app, "/ready").status_code == 503


def test_two_apps_share_nothing() -> None:
    first, second = make_app(), make_app()
    post(first, "/v1/embeddings", {"input": "a"})
    assert 'path="/v1/embeddings"' in get(first, "/metrics").text
    assert 'path="/v1/embeddings"' not in get(second, "/metrics").text


def test_figures() -> None:
    app = make_app(queue=4, items=4)
    for fields in ({"input": "a"}, {"input": ["a", "b"]}, {"input": ["a"] * 5}):
        post(app, "/v1/embeddings", fields)
    get(app, "/some/" + "x" * 50)
    text = get(app, "/metrics").text
    fingerprint = FakeEngine().fingerprint
    for line in (
        'vlp_requests_total{code="200",path="/v1/embeddings"} 2.0',
        'vlp_requests_total{code="413",path="/v1/embeddings"} 1.0',
        'vlp_requests_total{code="404",path="other"} 1.0',
        'vlp_request_seconds_count{path="/v1/embeddings"} 3.0',
        'vlp_batch_size_sum{kind="texts"} 3.0',
        'vlp_queue_items{kind="texts"} 0.0',
        'vlp_refused_total{reason="413"} 1.0',
        f'vlp_model_info{{family="fake",precision="float32",sha256="{fingerprint}"}} 1.0',
        "vlp_requests_in_flight 1.0",
    ):
        assert line in text.splitlines(), line
    assert "vlp_model_seconds_bucket" in text
    assert "vlp_decode_seconds_bucket" in text


def test_a_client_that_has_gone_leaves_the_queue() -> None:
    engine = FakeEngine()
    app = create_app(engine, warm=True)
    waiting = app.state.serving.model.texts

    async def work(client: Any) -> None:
        engine.open.clear()
        kept = asyncio.create_task(client.post("/v1/embeddings", json={"input": "a"}))
        while not engine.batches:
            await asyncio.sleep(0.001)
        await disconnected(app)
        assert waiting.waiting == 0
        engine.open.set()
        assert (await kept).status_code == 200

    ask(app, work)
    assert engine.batches == [1]
    assert app.state.serving.in_flight == 0


async def disconnected(app: Any) -> None:
    """A request whose client goes while it waits."""
    messages = [{"type": "http.request", "body": b'{"input": "b"}', "more_body": False}]
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "headers": headers,
    }
    scope |= {
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": None,
        "server": None,
    }

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody reads {message}")

    await app(scope, receive, send)
