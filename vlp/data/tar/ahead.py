"""Shards that will be needed next are fetched while the present ones are read."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vlp.data.faults import DataError
from vlp.data.tar.manifest import Shard
from vlp.data.tar.store import ShardStore


class Ahead:
    """One thread of a process, which ends with it, whatever is still to be fetched."""

    def __init__(self, store: ShardStore, shards: Sequence[Shard]) -> None:
        self.store, self.shards = store, shards
        self._process = -1
        self._asked: set[tuple[int, int]] = set()
        self._waiting: queue.SimpleQueue[int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_asked": set(), "_waiting": None}

    def fetch(self, epoch: int, numbers: Sequence[int]) -> None:
        """Those shards, once in an epoch."""
        if self._process != os.getpid():  # a fork has no threads of its parent
            self._process, self._asked, self._waiting = os.getpid(), set(), queue.SimpleQueue()
            threading.Thread(target=self._work, args=(self._waiting,), daemon=True).start()
        assert self._waiting is not None
        for number in numbers:
            if (epoch, number) not in self._asked:
                self._asked.add((epoch, number))
                self._waiting.put(number)

    def _work(self, waiting: queue.SimpleQueue[int]) -> None:
        while True:
            with suppress(DataError, OSError):  # it comes again where the shard is needed
                self.store.local(self.shards[waiting.get()])
