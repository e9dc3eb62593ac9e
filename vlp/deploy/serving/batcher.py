"""Single items from many requests, computed together: a batch is what waits at the moment the model becomes free.

Waiting for a batch to fill gains nothing, as items gather while the model computes. The queue is bounded in items, not in
requests: one list of 256 texts counts as 256. Requests take turns item by item, so a long list does not delay a single item.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(Exception):
    """The queue has no room for these items. seconds: after which it probably has."""

    def __init__(self, name: str, seconds: int) -> None:
        super().__init__(f"the queue of {name} is full; try again in {seconds} s")
        self.seconds = seconds


class Admission(Generic[Item, Result]):
    """Room in the queue for the items of one request, from before they are prepared until they are computed. Leaving the
    context, also by cancellation, gives up what has not been started."""

    def __init__(self, batcher: Batcher[Item, Result], count: int) -> None:
        self.batcher, self.not_started = batcher, count
        self.items: Sequence[Item] = ()
        self.results: list[Any] = []
        self.missing = 0
        self.future: asyncio.Future[list[Result]] | None = None

    def __enter__(self) -> Admission[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.batcher.withdraw(self)

    def submit(self, items: Sequence[Item]) -> asyncio.Future[list[Result]]:
        """One result for each item, in their order; an item's exception where the function raises one for it alone.

        items: as many as were admitted, not none."""
        if len(items) != self.not_started or not items or self.future is not None:
            raise RuntimeError(f"{len(items)} items where {self.not_started} were admitted, or submitted twice")
        self.items, self.results, self.missing = items, [None] * len(items), len(items)
        self.future = asyncio.get_running_loop().create_future()
        self.batcher.enqueue(self)
        return self.future

    def take(self) -> int:
        """The position of the next item that has not been started."""
        position = len(self.items) - self.not_started
        self.not_started -= 1
        return position

    def deliver(self, position: int, result: Any) -> None:
        if self.future is None or self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
            return
        self.results[position] = result
        self.missing -= 1
        if not self.missing:
            self.future.set_result(self.results)


Batch = list[tuple[Admission[Item, Result], int]]  # each with the position of its item


class Batcher(Generic[Item, Result]):
    """function: items → as many results; runs in a thread of its own, at most `threads` at a time.  most: items of a batch.
    queue: items that may wait, or be prepared, at a time.  observe: called with the size and the seconds of each batch.

    A thread takes its next batch by itself: the model does not wait until the event loop has written the answers to the last one.
    All methods are called in one event loop."""

    def __init__(
        self,
        name: str,
        function: Callable[[list[Item]], Iterable[Result]],
        *,
        most: int = 32,
        queue: int = 256,
        threads: int = 1,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self.name, self.function, self.most, self.queue, self.threads = name, function, most, queue, threads
        self.observe = observe
        self.waiting = 0  # items admitted and not started
        self._admissions: deque[Admission[Item, Result]] = deque()
        self._running = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seconds = 0.0  # of recent batches, on average
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"model-{name}")
        self._lock = threading.Lock()  # of the queue and its counts, which both sides change

    def admit(self, count: int) -> Admission[Item, Result]:
        """Raises Overloaded where fewer than `count` places are free."""
        with self._lock:
            if self.waiting + count > self.queue:
                batches = 1 + self.waiting / self.most
                raise Overloaded(self.name, max(1, math.ceil(batches * self._seconds / self.threads)))
            self.waiting += count
        return Admission(self, count)

    def enqueue(self, admission: Admission[Item, Result]) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._admissions.append(admission)
            if self._running == self.threads:
                return
            self._running += 1
        self._executor.submit(self._work)

    def withdraw(self, admission: Admission[Item, Result]) -> None:
        with self._lock:
            if admission.not_started:
                self.waiting -= admission.not_started
                admission.not_started = 0
                if admission in self._admissions:
                    self._admissions.remove(admission)
        if admission.future is not None and not admission.future.done():
            admission.future.cancel()

    def close(self) -> None:
        """Ends the threads when their batches are done; nothing may be submitted later."""
        self._executor.shutdown(wait=False)

    def _work(self) -> None:
        """In a thread, until nothing waits."""
        while batch := self._take():
            results, seconds = self._compute([admission.items[position] for admission, position in batch])
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop has ended, and nobody waits for the answers
                self._loop.call_soon_threadsafe(self._deliver, batch, results, seconds)

    def _take(self) -> Batch[Item, Result]:
        batch: Batch[Item, Result] = []
        with self._lock:
            while self._admissions and len(batch) < self.most:
                admission = self._admissions.popleft()
                batch.append((admission, admission.take()))
                if admission.not_started:
                    self._admissions.append(admission)
            self.waiting -= len(batch)
            if not batch:
                self._running -= 1
        return batch

    def _deliver(self, batch: Batch[Item, Result], results: list[Any], seconds: float) -> None:
        self._seconds = seconds if not self._seconds else 0.9 * self._seconds + 0.1 * seconds
        if self.observe is not None:
            self.observe(len(batch), seconds)
        for (admission, position), result in zip(batch, results, strict=True):
            admission.deliver(position, result)

    def _compute(self, items: list[Item]) -> tuple[list[Any], float]:
        """Results or exceptions, and the seconds that they took."""
        start = time.perf_counter()
        results = self._call(items)
        if len(items) > 1 and isinstance(results[0], Exception):  # the others need not pay for one item's mistake
            results = [self._call([item])[0] for item in items]
        return results, time.perf_counter() - start

    def _call(self, items: list[Item]) -> list[Any]:
        """The results, or the exception once for each item."""
        try:
            results = list(self.function(items))
            if len(results) != len(items):
                raise RuntimeError(f"{self.name}: {len(results)} results of {len(items)} items")
        except Exception as error:
            return [error] * len(items)
        return results
