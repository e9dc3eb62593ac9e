"""A DataLoader whose workers stay out of OpenMP, that counts what it has handed out, and that does not wait for ever."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from vlp.system.compat.stdlib import on_unsendable_item
from vlp.system.compat.torch import (
    data_loader_timed_out,
    data_worker_died,
    shared_memory_full,
    worker_error_message,
    worker_exit_codes,
)
from vlp.system.errors import is_user_error


@contextmanager
def held_back() -> Iterator[None]:
    """Workers are started with the signals blocked that are not theirs (see `prepare_worker`), from their first instruction
    on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker(worker: int) -> None:
    # a process forked from one that used OpenMP hangs in its first parallel region, so it must never enter one
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    on_unsendable_item(_end)
    # what is sent to a whole process group, by Ctrl-C or a cluster, is for training to decide: it still needs its batches
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _end(error: Exception, batch: Any) -> None:
    """Of a worker that cannot hand a batch over: Python prints the error and goes on, and training waits for ever."""
    traceback.print_exception(error)
    os._exit(errno.ENOSPC if shared_memory_full(error) else 1)


class LostWorker(RuntimeError):
    """A data worker died or hangs. Nothing is wrong with settings or data: started again, the run goes on."""


class Loader(DataLoader[Any]):
    """A DataLoader that counts what it has handed out, and whose timeout says what to do."""

    delivered = 0  # batches of the latest iteration

    def __iter__(self) -> Any:
        self.delivered = 0
        with held_back():
            iterator = super().__iter__()
        while True:
            try:
                batch = next(iterator)
                self.delivered += 1
                yield batch
            except StopIteration:
                return
            except Exception as error:
                if is_user_error(error) and (sentence := worker_error_message(error)) is not None:
                    raise type(error)(sentence) from error  # torch made the worker's traceback its text
                if data_worker_died(error):
                    raise LostWorker(self._lost(error, worker_exit_codes(iterator))) from error
                if not data_loader_timed_out(error):
                    raise
                message = (
                    f"no batch came from {self.num_workers} data workers within data.timeout={self.timeout:g} seconds"
                )
                raise LostWorker(f"{message}: look at the disk, or raise it (0 waits for ever)") from error

    def _lost(self, error: Exception, exit_codes: Sequence[int | None]) -> str:
        """Which batch was waited for; the process that died had it, or one soon after it."""
        batches: Any = self.batch_sampler
        awaited: list[tuple[int, int]] = next(itertools.islice(iter(batches), self.delivered, None), [])
        samples = ", ".join(str(index) for _, index in awaited)
        why = " ".join(str(error).split())
        full = errno.ENOSPC in exit_codes or shared_memory_full(error, exit_codes)
        cause = (
            "batches go from workers to training through /dev/shm: enlarge it (docker run --shm-size=8g), or set data.num_workers=0"
            if full
            else "the system kills what takes too much memory: set data.num_workers to fewer, or 0"
        )
        return (
            f"a data worker died ({why}) while batch {self.delivered}, samples {samples}, was waited for; {cause}; the run goes "
            "on from its checkpoint with resume=, and by itself with --max-restarts"
        )
