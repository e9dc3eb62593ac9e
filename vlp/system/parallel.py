"""A function of one file, over many files, in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
FEW = 512  # below this, starting processes takes longer than the work
CHUNK = 64


def default_workers() -> int:
    return min(4, os.cpu_count() or 1)


def parallel_map(function: Callable[[A], B], items: Sequence[A], *, workers: int | None = None) -> Iterator[B]:
    """Results in order.  workers: processes, at most 4 by default; 0 or 1 = none but this one.

    `function` is one of a module's own, and the processes start afresh (a fork would copy torch's locked threads), so a
    script that calls this needs `if __name__ == "__main__":`.
    """
    workers = default_workers() if workers is None else workers
    if workers <= 1 or len(items) < FEW:
        yield from map(function, items)
        return
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from chain.from_iterable(pool.map(partial(_apply_to_each, function), chunks))


def _apply_to_each(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    return [function(item) for item in items]
