"""Real processes: an end that loses no request, overload and recovery, and a new artifact under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.serving.fake_engine import FakeEngine
from tests.deploy.serving.requests_to import end, running, write_manifest
from vlp.deploy.serving.serve import bind

TEXT = {"input": "a red car"}


async def load(address: str, clients: int, until: asyncio.Event, answers: Counter[int | str]) -> None:
    """Clients that ask again as soon as they are answered, on connections that stay open; what became of each request."""

    async def one(client: httpx.AsyncClient) -> None:
        while not until.is_set():
            try:
                answer = await client.post(f"{address}/v1/embeddings", json=TEXT)
            except httpx.ConnectError:
                return  # the port is closed: this request was never accepted
            except httpx.HTTPError as error:
                answers[type(error).__name__] += 1
                return
            answers[answer.status_code] += 1
            if answer.status_code == 503:
                return  # it asks another server
            if answer.status_code == 429:
                await asyncio.sleep(0.01)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))


def test_sigterm_under_load_loses_no_request(tmp_path: Path) -> None:
    write_manifest(tmp_path, name="a", seconds=0.05)
    answers: Counter[int | str] = Counter()
    ready: list[int] = []

    async def work(process: Any, address: str) -> None:
        asking = asyncio.create_task(load(address, 16, asyncio.Event(), answers))
        while answers[200] < 50:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient() as client:
            while not ready or ready[-1] == 200:
                ready.append((await client.get(f"{address}/ready")).status_code)
        await asking

    with running(tmp_path) as (process, address):
        asyncio.run(work(process, address))
        assert process.wait(20) == 0
    assert answers[200] >= 50
    assert set(answers) <= {200, 503}, answers  # each accepted request has an answer
    assert ready[-1] == 503
    port = int(address.rpartition(":")[2])
    bind("127.0.0.1", port).close()  # it is free


def test_what_waits_is_finished_after_sigterm(tmp_path: Path) -> None:
    write_manifest(tmp_path, name="a", seconds=0.3)

    async def work(process: Any, address: str) -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            tasks = [asyncio.create_task(client.post(f"{address}/v1/embeddings", json=TEXT)) for _ in range(8)]
            await asyncio.sleep(0.4)  # one batch is computed, the others wait
            process.send_signal(signal.SIGTERM)
            return [answer.status_code for answer in await asyncio.gather(*tasks)]

    with running(tmp_path, "batch=2") as (process, address):
        assert asyncio.run(work(process, address)) == [200] * 8
        assert process.wait(20) == 0


def test_overload_is_429_at_once_and_passes(tmp_path: Path) -> None:
    write_manifest(tmp_path, name="a", seconds=0.05)
    answers: Counter[int | str] = Counter()

    async def work(address: str) -> float:
        stop = asyncio.Event()
        asking = asyncio.create_task(load(address, 48, stop, answers))
        while answers[429] < 50:
            await asyncio.sleep(0.01)
        stop.set()
        await asking
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.post(f"{address}/v1/embeddings", json=TEXT)
            assert answer.status_code == 200
            refused = (await client.get(f"{address}/metrics")).text
            assert 'vlp_refused_total{reason="429"}' in refused
            assert 'vlp_queue_items{kind="texts"} 0.0' in refused
        return answers[200]

    with running(tmp_path, "queue=8", "items=8", "batch=4") as (process, address):
        assert asyncio.run(work(address)) > 0
        assert set(answers) == {200, 429}
        assert end(process) == 0


def test_a_new_artifact_is_taken_in_under_load(tmp_path: Path) -> None:
    """By itself when the manifest is another one, and by SIGHUP; a damaged one changes nothing; no request is dropped."""
    write_manifest(tmp_path, name="a", seconds=0.01)
    answers: Counter[int | str] = Counter()

    async def fingerprint(client: httpx.AsyncClient, address: str) -> str:
        return (await client.get(f"{address}/v1/models")).json()["data"][0]["fingerprint"]

    async def becomes(client: httpx.AsyncClient, address: str, name: str) -> None:
        start = time.monotonic()
        while await fingerprint(client, address) != FakeEngine(name=name).fingerprint:
            assert time.monotonic() < start + 20
            await asyncio.sleep(0.02)

    async def work(process: Any, address: str) -> None:
        stop = asyncio.Event()
        asking = asyncio.create_task(load(address, 8, stop, answers))
        async with httpx.AsyncClient() as client:
            for name in ("b", "c"):
                write_manifest(tmp_path, name=name, seconds=0.01)
                await becomes(client, address, name)
            write_manifest(tmp_path, damaged=True)
            process.send_signal(signal.SIGHUP)
            while 'vlp_reloads_total{result="failed"}' not in (await client.get(f"{address}/metrics")).text:
                await asyncio.sleep(0.02)
            assert await fingerprint(client, address) == FakeEngine(name="c").fingerprint
            write_manifest(tmp_path, name="d", seconds=0.01)
            process.send_signal(signal.SIGHUP)
            await becomes(client, address, "d")
        stop.set()
        await asking

    with running(tmp_path) as (process, address):
        asyncio.run(work(process, address))
        assert set(answers) == {200}
        assert end(process) == 0
    assert "damaged; copy the artifact again" in (tmp_path / "log").read_text()


def test_a_model_that_cannot_be_warmed_up_ends_the_process(tmp_path: Path) -> None:
    write_manifest(tmp_path, name="a", broken=True)
    with running(tmp_path, ready=False) as (process, _):
        assert process.wait(20) != 0
    assert "cannot be called" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_server_ends_soon(tmp_path: Path, number: signal.Signals) -> None:
    write_manifest(tmp_path, name="a")
    with running(tmp_path) as (process, address), httpx.Client() as client:  # an idle connection does not keep it
        assert client.get(f"{address}/health").status_code == 200
        process.send_signal(number)
        assert process.wait(10) == 0
