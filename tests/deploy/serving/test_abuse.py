"""Ten thousand odd requests to a real process: it lives, answers ordinary ones meanwhile, serves nothing that it should not, and
does not grow."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.deploy.serving.fake_engine import FakeEngine
from tests.deploy.serving.odd_requests import KEY, OddRequest, odd_requests
from tests.deploy.serving.photo_index import make_index
from tests.deploy.serving.requests_to import end, resident_bytes, running, write_manifest

AT_A_TIME = 16


async def send(port: int, odd: OddRequest) -> int | None:
    """The status; None where the connection was closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        try:
            writer.write(odd.data[:-1])
            await writer.drain()
            await asyncio.sleep(odd.pause)
            writer.write(odd.data[-1:])
            await writer.drain()
        except ConnectionError:
            pass  # refused before all was sent; an answer may be there
        try:
            line = await asyncio.wait_for(reader.readline(), 30)
        except ConnectionError:
            return None
        return int(line.split()[1]) if line else None
    finally:
        writer.close()


async def abuse(address: str, count: int, seed: int) -> tuple[Counter[str], list[str], int]:
    """Answers by kind, what should not have been answered so, and how many ordinary requests were right meanwhile."""
    port, seen, wrong, good = int(address.rpartition(":")[2]), Counter[str](), list[str](), 0
    waiting = iter(odd_requests(count, seed))
    done = asyncio.Event()

    async def one() -> None:
        for odd in waiting:
            status = await send(port, odd)
            seen[f"{odd.kind}: {status}"] += 1
            if status is not None and status not in odd.allowed:
                wrong.append(f"{odd.kind}: {status} to {odd.data[:300]!r}")

    async def ordinary() -> None:
        nonlocal good
        expected = FakeEngine().embed_texts(["a red car"])[0]
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            while not done.is_set():
                answer = await client.post(f"{address}/v1/embeddings", json={"input": "a red car"})
                right = answer.status_code == 200
                if not right or not np.array_equal(np.float32(answer.json()["data"][0]["embedding"]), expected):
                    wrong.append(f"ordinary: {answer.status_code}")
                good += 1
                await asyncio.sleep(0.02)

    asking = asyncio.create_task(ordinary())
    await asyncio.gather(*(one() for _ in range(AT_A_TIME)))
    done.set()
    await asking
    return seen, wrong, good


def survive(folder: Path, rounds: list[int]) -> tuple[list[int], Counter[str]]:
    """Resident bytes after each round of odd requests, and what they were answered."""
    make_index(folder, FakeEngine())
    write_manifest(folder, name="a")
    settings = [
        f"key={KEY}",
        f"index={folder / 'index'}",
        "head_seconds=0.5",
        "body_seconds=0.5",
        "pixels=1000000",
        "queue=300",
    ]
    sizes, all_seen = [], Counter[str]()
    with running(folder, *settings) as (process, address):
        for seed, count in enumerate(rounds):
            seen, wrong, good = asyncio.run(abuse(address, count, seed))
            assert wrong == []
            assert good > 0
            assert process.poll() is None
            all_seen += seen
            sizes.append(resident_bytes(process))
        check_idle(process, address)
        assert end(process) == 0
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    return sizes, all_seen


def check_idle(process: subprocess.Popen[str], address: str) -> None:
    """Nothing is left in a queue or in flight, and the server still answers."""
    headers: dict[str, Any] = {"Authorization": f"Bearer {KEY}"}
    text = httpx.get(f"{address}/metrics", headers=headers).text
    for line in (
        'vlp_queue_items{kind="images"} 0.0',
        'vlp_queue_items{kind="texts"} 0.0',
        "vlp_requests_in_flight 1.0",
    ):
        assert line in text.splitlines()


def test_a_sample(tmp_path: Path) -> None:
    _, seen = survive(tmp_path, [230])
    kinds = {line.partition(":")[0] for line in seen}
    assert {"bomb", "wrong key", "path trick", "slow client", "deep json"} <= kinds
    assert len(kinds) >= 23


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand(tmp_path: Path) -> None:
    sizes, seen = survive(tmp_path, [2_000] * 5)
    print(json.dumps(dict(sorted(seen.items())), indent=1), [size >> 20 for size in sizes])
    assert sum(seen.values()) >= 10_000
    assert sizes[-1] < sizes[0] + (30 << 20)  # after the first round allocators and caches are full
