"""A real server on this machine that can do everything wrong that servers do, and catalogues that name its files."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlp.curation.download.catalogue import read_catalogue
from vlp.curation.download.connection import RetryPolicy
from vlp.curation.download.session import download_catalogue

CHECKOUT = Path(__file__).resolve().parents[3]


class Server(http.server.ThreadingHTTPServer):
    """files: by path.  acts: for each path what to do at the next GETs instead of answering well, one after the other:
    ("status", code, headers), ("break", bytes), ("claim", bytes), ("hang",), ("deaf",) = ignores Range, ("chunked",),
    ("redirect", address), ("wrong", bytes), ("etag", text) = has a new version from now on.  rate: bytes a second.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}
        self.acts: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.always: dict[str, tuple[Any, ...]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent: dict[str, int] = defaultdict(int)
        self.together = 0  # the most files that were begun and not finished at one time
        self.rate: float | None = None
        self.closing = threading.Event()
        self.after_first: Callable[[], object] | None = None  # called when the first GET has been answered
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, content: bytes) -> str:
        self.files[path], self.etags[path] = content, f'"{hashlib.md5(content).hexdigest()}"'
        return self.address + path

    def asked(self, path: str) -> list[dict[str, str]]:
        return [headers for method, asked, headers in self.requests if (method, asked) == ("GET", path)]

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.requests.append(("HEAD", self.path, dict(self.headers)))
        self._begin(200, len(self.server.files[self.path]))

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.requests.append(("GET", path, dict(self.headers)))
        act = server.acts[path].pop(0) if server.acts[path] else server.always.get(path, ("well",))
        content = server.files.get(path)
        if act[0] == "etag":
            server.etags[path] = act[1]
        if act[0] == "status":
            return self._begin(act[1], 0, **act[2])
        if act[0] == "redirect":
            return self._begin(302, 0, Location=act[1])
        if content is None:
            return self._begin(404, 0)
        if act[0] == "wrong":
            content = act[1]
        first = self._first(content, act[0])
        status = 206 if first else 200
        extra = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
        rest = content[first:]
        if act[0] == "chunked":
            return self._chunked(rest)
        self._begin(status, act[1] - first if act[0] == "claim" else len(rest), **extra)
        self._send(rest[: act[1]] if act[0] == "break" else b"" if act[0] == "hang" else rest)
        if act[0] == "hang":
            server.closing.wait(10)
        if server.after_first:
            server.after_first()
            server.after_first = None
        if act[0] in ("break", "claim", "hang"):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _first(self, content: bytes, act: str) -> int:
        """The byte that is asked for; 0 where Range is ignored, or is about another version."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not found or act == "deaf" or (condition and condition != self.server.etags[self.path]):
            return 0
        return int(found[1])

    def _begin(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        if status < 300 and (etag := self.server.etags.get(self.path)):
            self.send_header("ETag", etag)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _chunked(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(content), 10_000):
            piece = content[start : start + 10_000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, content: bytes) -> None:
        for start in range(0, len(content), 1 << 14):
            piece = content[start : start + (1 << 14)]
            self.wfile.write(piece)
            self.server.sent[self.path] += len(piece)
            begun = sum(0 < self.server.sent[path] < len(file) for path, file in list(self.server.files.items()))
            self.server.together = max(self.server.together, begun)
            if self.server.rate:
                time.sleep(len(piece) / self.server.rate)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def packed(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(name="packed")
def _packed() -> Callable[..., bytes]:
    return packed


@pytest.fixture
def noise() -> bytes:
    """A third of a megabyte that no compression shortens."""
    return os.urandom(300_000)


@pytest.fixture
def catalogue_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a catalogue of the given files, all in one part unless they are given by part."""

    def write(*files: dict[str, Any], **parts: list[dict[str, Any]]) -> Path:
        content = {
            "title": "Toy",
            "folder": "toy",
            "homepage": "http://127.0.0.1",
            "licence": "CC0",
            "by_hand": None,
            "parts": {
                name: {"about": name, "files": list(of)} for name, of in (parts or {"everything": files}).items()
            },
        }
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def fetch(tmp_path: Path, catalogue_file: Callable[..., Path]) -> Callable[..., Path]:
    """Downloads the given files in this process, with little retry_policy; the root."""

    def run(*files: dict[str, Any], retries: int = 3, timeout: float = 5.0, **options: Any) -> Path:
        catalogue = read_catalogue(catalogue_file(*files))
        retry_policy = RetryPolicy(retries=retries, first_delay=0.01, timeout=timeout)
        download_catalogue(catalogue, tmp_path / "root", retry_policy=retry_policy, **options)
        return tmp_path / "root"

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`vlp data download …` in processes of their own, which do not outlive the test."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vlp.cli", "data", "download", *map(str, arguments)]
        environment = {"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin"}
        process = subprocess.Popen(
            command, env=environment, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the suite runs in the background
        )  # fmt: skip
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()
