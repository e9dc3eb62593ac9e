"""Locks between the processes of a machine, and of all that share a file system.

A lock is the kernel's, so it is gone with the process that had it, however that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive_lock(file: Path, taken: Callable[[], Exception] | None = None) -> Iterator[None]:
    """taken: makes the error to raise where another process has the lock; None = wait for it."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0 if taken else -1)
    except Timeout:
        assert taken is not None
        raise taken() from None
    try:
        yield
    finally:
        lock.release()
