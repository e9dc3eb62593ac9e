"""An app asked in this process, and a server of a real process asked through its port."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def client_of(app: Any, host: str = "localhost", **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers) as client:
        yield client


def ask(
    app: Any, work: Callable[[httpx.AsyncClient], Awaitable[Result]], host: str = "localhost", **headers: str
) -> Result:
    """What `work` gets from the app, in an event loop of its own."""

    async def connected() -> Result:
        async with client_of(app, host, **headers) as client:
            return await work(client)

    return asyncio.run(connected())


def post(app: Any, path: str, json: Any = None, **options: Any) -> httpx.Response:
    return ask(app, lambda client: client.post(path, json=json, **options))


def get(app: Any, path: str, **options: Any) -> httpx.Response:
    return ask(app, lambda client: client.get(path, **options))


def error_of(response: httpx.Response) -> dict[str, Any]:
    """In the form that OpenAI's clients read."""
    (error,) = response.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


@contextlib.contextmanager
def running(
    folder: Path, *options: str, ready: bool = True, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """tests/deploy/serving/fake_server.py in a process, and the address that it printed; killed at the end if it still runs.
    ready: wait until the model is warm."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.deploy.serving.fake_server", str(folder), *options]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://\S+) answers", line)
        assert found is not None, line + (folder / "log").read_text()
        while ready and httpx.get(f"{found[1]}/ready", timeout=20).status_code != 200:
            time.sleep(0.02)
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def end(process: subprocess.Popen[str], timeout: float = 20) -> int:
    """The exit code after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout)


def write_manifest(folder: Path, **content: Any) -> None:
    """What the fake server loads: {"name": …, "seconds": …}; renamed into its place."""
    (folder / "manifest.new").write_text(json.dumps(content))
    os.replace(folder / "manifest.new", folder / "manifest.json")


def resident_bytes(process: subprocess.Popen[str]) -> int:
    return psutil.Process(process.pid).memory_info().rss
