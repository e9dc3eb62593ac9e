"""What vlp needs of Python's own library beyond its documented names. tests/system/compat/test_stdlib.py states what each one
has to do."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from typing import Any


def on_unsendable_item(handler: Callable[[Exception, Any], None]) -> None:
    """From now on `handler(error, item)` runs, in this process, where an item that was put into a multiprocessing queue cannot be
    sent to the process that reads it.

    Python prints the error and drops the item; whoever waits for that item waits for ever. Sets
    `multiprocessing.Queue._on_queue_feeder_error`, which has no documented name: without it a data worker that fills /dev/shm
    leaves training waiting.
    """
    Queue._on_queue_feeder_error = staticmethod(handler)  # type: ignore[attr-defined]


def tar_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar in order, of which the archive remembers none: `for member in archive` keeps every header, about a
    gigabyte for a million files.

    Empties the undocumented list `TarFile.members` (from Python 3.13 on `tarfile.open(stream=True)` does the same). If the
    headers were kept elsewhere, large tars would take much memory.
    """
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member
