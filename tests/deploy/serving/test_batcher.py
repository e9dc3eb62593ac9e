"""What waits is one batch; queues are bounded in items; nobody pays for another request's mistake or departure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vlp.deploy.serving.batcher import Batcher, Overloaded


class Doubler:
    """Doubles numbers; waits while `open` is cleared; -1 is a defect of its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.open.wait(20)
        if -1 in items:
            raise ValueError("a negative number")
        return [2 * item for item in items]


def run(work: Callable[[Batcher[int, int], Doubler], Awaitable[Any]], **options: Any) -> Any:
    async def inside() -> Any:
        doubler = Doubler()
        batcher: Batcher[int, int] = Batcher("numbers", doubler, **options)
        try:
            return await work(batcher, doubler)
        finally:
            doubler.open.set()
            batcher.close()

    return asyncio.run(inside())


async def submit(batcher: Batcher[int, int], *items: int) -> list[int]:
    with batcher.admit(len(items)) as admission:
        return await admission.submit(items)


async def busy(batcher: Batcher[int, int], doubler: Doubler) -> asyncio.Task[list[int]]:
    """The model computes one item, and what follows waits."""
    doubler.open.clear()
    first = asyncio.create_task(submit(batcher, 0))
    while not doubler.batches:
        await asyncio.sleep(0.001)
    return first


def test_what_waits_is_one_batch_and_answers_keep_their_order() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        first = await busy(batcher, doubler)
        others = [asyncio.create_task(submit(batcher, *range(n, n + 3))) for n in (10, 20, 30)]
        await asyncio.sleep(0)
        doubler.open.set()
        assert await first == [0]
        assert await asyncio.gather(*others) == [[20, 22, 24], [40, 42, 44], [60, 62, 64]]
        assert [len(batch) for batch in doubler.batches] == [1, 8, 1]

    run(work, most=8)


def test_an_idle_model_does_not_wait_for_a_batch() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        assert await submit(batcher, 1) == [2]
        assert doubler.batches == [[1]]

    run(work)


def test_a_long_list_lets_single_items_through() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        first = await busy(batcher, doubler)
        long = asyncio.create_task(submit(batcher, *range(100, 164)))
        await asyncio.sleep(0)
        single = asyncio.create_task(submit(batcher, 7))
        await asyncio.sleep(0)
        doubler.open.set()
        await asyncio.gather(first, long, single)
        assert 7 in doubler.batches[1]

    run(work, most=4)


def test_the_queue_is_bounded_in_items_and_lists_count() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        first = await busy(batcher, doubler)
        waiting = asyncio.create_task(submit(batcher, *range(6)))
        await asyncio.sleep(0)
        assert batcher.waiting == 6
        for items in ((1, 2, 3), range(100)):
            with pytest.raises(Overloaded) as refused:
                await submit(batcher, *items)
            assert refused.value.seconds >= 1
        two = asyncio.create_task(submit(batcher, 1, 2))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await submit(batcher, 1)
        doubler.open.set()
        await asyncio.gather(first, waiting, two)
        assert batcher.waiting == 0
        assert await submit(batcher, 5) == [10]  # it recovers

    run(work, most=8, queue=8)


def test_what_is_being_prepared_counts_and_is_given_back() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        with pytest.raises(RuntimeError, match="while decoding"), batcher.admit(5):  # noqa: PT012
            assert batcher.waiting == 5
            raise RuntimeError("while decoding")
        assert batcher.waiting == 0

    run(work, queue=8)


def test_cancelled_requests_are_not_computed() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        first = await busy(batcher, doubler)
        gone, stays = [asyncio.create_task(submit(batcher, *items)) for items in ((5, 6), (8,))]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        doubler.open.set()
        assert await stays == [16]
        await first
        assert doubler.batches == [[0], [8]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(work)


def test_a_defect_hits_its_own_request_alone() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        first = await busy(batcher, doubler)
        tasks = [asyncio.create_task(submit(batcher, *items)) for items in ((1, 2), (3, -1), (4,))]
        await asyncio.sleep(0)
        doubler.open.set()
        good, bad, other = await asyncio.gather(*tasks, return_exceptions=True)
        assert (good, other) == ([2, 4], [8])
        assert isinstance(bad, ValueError)
        await first

    run(work)


def test_several_threads_take_batches_side_by_side() -> None:
    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        doubler.open.clear()
        tasks = [asyncio.create_task(submit(batcher, n)) for n in range(2)]
        while len(doubler.batches) < 2:
            await asyncio.sleep(0.001)
        doubler.open.set()
        assert await asyncio.gather(*tasks) == [[0], [2]]

    run(work, threads=2)


def test_batches_are_observed() -> None:
    seen: list[int] = []

    async def work(batcher: Batcher[int, int], doubler: Doubler) -> None:
        await submit(batcher, 1, 2, 3)
        assert seen == [2, 1]

    run(work, most=2, observe=lambda size, seconds: seen.append(size))


def test_a_wrong_number_of_results_is_a_defect() -> None:
    async def work() -> None:
        batcher: Batcher[int, int] = Batcher("short", lambda items: items[:-1])
        with pytest.raises(RuntimeError, match="0 results of 1 items"):
            await submit(batcher, 1)
        batcher.close()

    asyncio.run(work())
