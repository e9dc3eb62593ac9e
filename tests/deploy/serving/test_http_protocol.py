"""A real port: heads that are too large, never end, or never begin; bodies that do not come."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.serving.requests_to import running, write_manifest

HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder: Path = tmp_path_factory.mktemp("served")
    write_manifest(folder, name="a")
    with running(folder, "head_seconds=0.5", "body_seconds=0.5", "head_bytes=4096", "connections=40") as (_, address):
        yield int(address.rpartition(":")[2])


def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while data := connection.recv(65_536):
            found += data
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_an_ordinary_request(port: int) -> None:
    body = b'{"input": "a"}'
    answer = exchange(port, HEAD + b"Connection: close\r\nContent-Length: 14\r\n\r\n" + body)
    assert status(answer) == 200


def test_a_request_in_single_bytes(port: int) -> None:
    whole = HEAD + b'Connection: close\r\nContent-Length: 14\r\n\r\n{"input": "a"}'
    assert status(exchange(port, *[whole[i : i + 1] for i in range(len(whole))])) == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 8_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 8_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(2_000)),
    ],
)
def test_a_large_head_is_431(port: int, head: bytes) -> None:
    answer = exchange(port, *[head[start : start + 1_000] for start in range(0, len(head), 1_000)], pause=0.002)
    assert answer == b"" or status(answer) in (431, 400)
    assert b"200 OK" not in answer


def test_a_large_head_in_one_piece_is_431(port: int) -> None:
    assert status(exchange(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 8_000 + b"\r\n\r\n")) == 431


@pytest.mark.parametrize("start", [b"", b"GET / HTT", HEAD, b"\r\n"])
def test_a_head_that_does_not_end_is_closed(port: int, start: bytes) -> None:
    begin = time.monotonic()
    assert exchange(port, start) == b""
    assert time.monotonic() < begin + 5


def test_a_head_in_drops_is_closed(port: int) -> None:
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, pytest.raises(OSError):  # noqa: PT011, PT012
        while time.monotonic() < begin + 8:
            connection.sendall(b"\r\n")
            time.sleep(0.1)
    assert time.monotonic() < begin + 5


def test_a_body_that_does_not_come_is_408(port: int) -> None:
    answer = exchange(port, HEAD + b"Content-Length: 100\r\n\r\n{")
    assert status(answer) == 408
    assert b"slow_request" in answer


def test_a_second_head_that_does_not_end_is_closed(port: int) -> None:
    request = HEAD + b'Content-Length: 14\r\n\r\n{"input": "a"}'
    begin = time.monotonic()
    answer = exchange(port, request + b"GET / HT")
    assert status(answer) == 200
    assert time.monotonic() < begin + 5


def test_two_requests_in_one_piece(port: int) -> None:
    request = HEAD + b'Content-Length: 14\r\n\r\n{"input": "a"}'
    last = HEAD + b'Connection: close\r\nContent-Length: 14\r\n\r\n{"input": "b"}'
    assert exchange(port, request + last).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "line", [b"\x16\x03\x01\x02\x00", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET \x00 HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http(port: int, line: bytes) -> None:
    answer = exchange(port, line)
    assert answer == b"" or status(answer) == 400


def test_more_connections_than_allowed_are_503(port: int) -> None:
    connections = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(45)]
    try:
        answer = exchange(port, HEAD + b'Connection: close\r\nContent-Length: 14\r\n\r\n{"input": "a"}')
        assert status(answer) == 503
    finally:
        for connection in connections:
            connection.close()
    for _ in range(100):
        if status(exchange(port, HEAD + b'Connection: close\r\nContent-Length: 14\r\n\r\n{"input": "a"}')) == 200:
            return
        time.sleep(0.05)
    raise AssertionError("it did not recover")
