"""Downloads the next shards while the present ones are read."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from typing import Any

from vlp.data.issues import DataError
from vlp.data.shards.order import EpochBlockOrders
from vlp.data.shards.samples import ShardSamples


class ShardPrefetcher:
    """Called with (epoch, number) before a sample is read, it requests the shards of the next block, once in each epoch.

    One daemon thread of each process downloads them; it ends with the process, also with requests left.
    """

    def __init__(self, samples: ShardSamples, orders: EpochBlockOrders) -> None:
        self.samples, self.orders = samples, orders
        self._process = -1
        self._requested: set[tuple[int, int]] = set()
        self._queue: queue.SimpleQueue[int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_requested": set(), "_queue": None}

    def __call__(self, epoch: int, number: int) -> None:
        if self._process != os.getpid():  # a fork has no threads of its parent
            self._process, self._requested, self._queue = os.getpid(), set(), queue.SimpleQueue()
            threading.Thread(target=self._fetch_queued_shards, args=(self._queue,), daemon=True).start()
        assert self._queue is not None
        for shard in self.orders(epoch).next_block_shards(self.samples.locate(number)[0]):
            if (epoch, shard) not in self._requested:
                self._requested.add((epoch, shard))
                self._queue.put(shard)

    def _fetch_queued_shards(self, waiting: queue.SimpleQueue[int]) -> None:
        while True:
            with suppress(DataError, OSError):  # the error is raised again when the shard is read
                self.samples.store.local_path(self.samples.shards[waiting.get()])
