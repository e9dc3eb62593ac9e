"""Shards that will be needed next are fetched while the present ones are read."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from typing import Any

from vlp.data.issues import DataError
from vlp.data.shards.order import BlockOrders
from vlp.data.shards.samples import ShardSamples


class ShardPrefetcher:
    """Called with (epoch, number) of a sample that is about to be read, it fetches the shards of the block after its own,
    once in an epoch, in one thread of the process, which ends with it, whatever is still to be fetched."""

    def __init__(self, samples: ShardSamples, orders: BlockOrders) -> None:
        self.samples, self.orders = samples, orders
        self._process = -1
        self._asked: set[tuple[int, int]] = set()
        self._waiting: queue.SimpleQueue[int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_asked": set(), "_waiting": None}

    def __call__(self, epoch: int, number: int) -> None:
        if self._process != os.getpid():  # a fork has no threads of its parent
            self._process, self._asked, self._waiting = os.getpid(), set(), queue.SimpleQueue()
            threading.Thread(target=self._work, args=(self._waiting,), daemon=True).start()
        assert self._waiting is not None
        for shard in self.orders(epoch).next_shards(self.samples.place(number)[0]):
            if (epoch, shard) not in self._asked:
                self._asked.add((epoch, shard))
                self._waiting.put(shard)

    def _work(self, waiting: queue.SimpleQueue[int]) -> None:
        while True:
            with suppress(DataError, OSError):  # it comes again where the shard is needed
                self.samples.store.local(self.samples.shards[waiting.get()])
