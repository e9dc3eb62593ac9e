"""Requests per second of vlp's server and of LitServe, over one model that sleeps 5 ms and 0.5 ms for each item of a batch of at
most 32, and answers 512 floats: `python experiments/benchmarks/serving_throughput.py [--rounds 3]`.

The two alternate; each is started for its turn alone, on the loopback, and asked by 32 connections that wait for each answer (by
wrk where it is installed, else by an asyncio client in this process). Printed: requests per second, milliseconds of CPU that all
the server's processes take for a request, and the ratio of each pair.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import litserve
import numpy as np
import psutil

WIDTH, FIRST, EACH, BATCH, CONNECTIONS = 512, 0.005, 0.0005, 32, 32
TEXT = "a red car on a road between two fields"
SCRIPT = 'wrk.method = "POST"\nwrk.body = [[{body}]]\nwrk.headers["Content-Type"] = "application/json"\n'


class SleepingEngine:
    """The surface of `vlp.deploy.runtime.engine.Engine` that /v1/embeddings needs for texts."""

    fingerprint, width, verbs = "0" * 64, WIDTH, ("embed_texts",)
    manifest = SimpleNamespace(family="sleeping", precision="float32", tokenizer=None)

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(texts), 8), np.int64), np.ones((len(texts), 8), bool)

    def embed_tokens(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return sleep_and_embed(len(ids))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_tokens(*self.tokenize(texts))


def sleep_and_embed(count: int) -> np.ndarray:
    time.sleep(FIRST + EACH * count)
    return np.full((count, WIDTH), WIDTH**-0.5, np.float32) + np.random.default_rng(0).random(WIDTH, np.float32) / 100


class SleepingApi(litserve.LitAPI):
    """The same for LitServe, which pickles it into a process of its own."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request, **_):  # type: ignore[no-untyped-def]  # LitServe makes a form of an annotation
        return request["input"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    def predict(self, x: list[str], **_: Any) -> np.ndarray:
        return sleep_and_embed(len(x))

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray, **_: Any) -> dict[str, Any]:
        return {"data": [{"embedding": output.tolist(), "index": 0}]}


def serve_vlp(port: int) -> None:
    import uvicorn

    from vlp.deploy.serving.app import create_app
    from vlp.deploy.serving.server import server_config

    config = server_config(create_app(SleepingEngine()))
    config.port = port
    uvicorn.Server(config).run()


def serve_litserve(port: int) -> None:
    api = SleepingApi(max_batch_size=BATCH, batch_timeout=0.005, api_path="/v1/embeddings")
    litserve.LitServer(api, accelerator="cpu", timeout=30).run(
        host="127.0.0.1", port=port, log_level="warning", generate_client_file=False
    )


@contextlib.contextmanager
def started(name: str) -> Iterator[tuple[int, psutil.Process]]:
    """The port and process of a server that answers; at the end it and its children are gone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", name, "--port", str(port)])
    parent = psutil.Process(process.pid)
    try:
        wait_for_answer(port, process)
        yield port, parent
    finally:
        family = [*parent.children(recursive=True), parent] if parent.is_running() else []
        for member in family:  # LitServe's children outlive a SIGTERM to their parent
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGTERM if name == "vlp" else signal.SIGKILL)
        process.wait(timeout=30)


def wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    body = json.dumps({"input": TEXT}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/embeddings", body, headers)
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            (item,) = json.load(answer)["data"]
            assert len(item["embedding"]) == WIDTH
            return
        time.sleep(0.1)
    raise RuntimeError("the server did not answer within a minute")


def cpu_seconds(process: psutil.Process) -> float:
    members = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in members)


def ask_by_wrk(port: int, seconds: float) -> float:
    """Requests a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("{body}", json.dumps({"input": TEXT})))
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", script.name]
        printed = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/v1/embeddings"], capture_output=True, text=True, check=True
        ).stdout
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(printed)
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found is not None, printed
    return float(found[1])


def ask_by_asyncio(port: int, seconds: float) -> float:
    """Requests a second."""
    body = json.dumps({"input": TEXT}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = f"{head}\r\n\r\n".encode() + body

    async def one(end: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.perf_counter() < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            found = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            assert found is not None
            await reader.readexactly(int(found[1]))
            count += 1
        writer.close()
        return count

    async def all_together() -> float:
        start = time.perf_counter()
        counts = await asyncio.gather(*(one(start + seconds) for _ in range(CONNECTIONS)))
        return sum(counts) / (time.perf_counter() - start)

    return asyncio.run(all_together())


def measure(name: str, seconds: float) -> tuple[float, float]:
    """Requests a second, and CPU milliseconds a request."""
    ask = ask_by_wrk if shutil.which("wrk") else ask_by_asyncio
    with started(name) as (port, process):
        ask(port, min(1.0, seconds))
        before, start = cpu_seconds(process), time.perf_counter()
        rate = ask(port, seconds)
        count = rate * (time.perf_counter() - start)
        return rate, 1000 * (cpu_seconds(process) - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--serve", choices=("vlp", "litserve"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        (serve_vlp if options.serve == "vlp" else serve_litserve)(options.port)
        return
    ratios = []
    for number in range(options.rounds):
        rates = {}
        for name in ("vlp", "litserve"):
            rates[name], cpu = measure(name, options.seconds)
            print(f"round {number + 1}: {name:8} {rates[name]:7.0f} requests/s, {cpu:.2f} CPU-ms a request", flush=True)
        ratios.append(rates["vlp"] / rates["litserve"])
    client = "wrk" if shutil.which("wrk") else "asyncio"
    print(
        f"vlp over litserve, asked by {client}: {statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
