"""A DataLoader that counts its batches and reports workers that died or hang; and the setup of its worker processes."""

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

import lightning as L
import torch
from torch.utils.data import DataLoader

from vlp.data.sampler import SampleKey
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
def block_worker_signals() -> Iterator[None]:
    """Worker processes that are started inside begin with SIGTERM and SIGINT blocked, until `prepare_worker` handles them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare_worker(worker: int) -> None:
    # a process forked from one that used OpenMP hangs in its first parallel region; one thread never enters one
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    on_unsendable_item(_exit_on_unsendable_batch)
    # Ctrl-C and clusters signal the entire process group; the training process decides, and still needs batches
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_exit_on_sigterm_of_parent, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_of_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _exit_on_unsendable_batch(error: Exception, batch: Any) -> None:
    """Called when a worker cannot send a batch: Python alone would only print the error, and training would wait for ever."""
    traceback.print_exception(error)
    os._exit(errno.ENOSPC if shared_memory_full(error) else 1)


def discarded_batches(trainer: L.Trainer | None) -> int:
    """1 after an exception in the middle of a step, whose batch was delivered but not trained on; else 0."""
    if trainer is None:
        return 0
    # not the position itself: Lightning's counts are one too low after a second resumption
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.ready - progress.processed  # type: ignore[attr-defined]


class DataWorkerLost(RuntimeError):
    """A data worker died or hangs. Config and data are not the cause: a restart continues the run."""


class Loader(DataLoader[Any]):
    """Raises DataWorkerLost with the cause and the fix when a worker died or timed out."""

    delivered = 0  # batches returned in the latest iteration

    def __iter__(self) -> Any:
        self.delivered = 0
        with block_worker_signals():
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
                    raise type(error)(
                        sentence
                    ) from error  # without the worker's traceback, which torch puts in the text
                if data_worker_died(error):
                    raise DataWorkerLost(self._describe_worker_death(error, worker_exit_codes(iterator))) from error
                if not data_loader_timed_out(error):
                    raise
                message = (
                    f"no batch came from {self.num_workers} data workers within data.timeout={self.timeout:g} seconds"
                )
                raise DataWorkerLost(f"{message}: check the disk, or raise it (0 waits for ever)") from error

    def _describe_worker_death(self, error: Exception, exit_codes: Sequence[int | None]) -> str:
        """The message names the batch that training waited for; the worker that died had it, or one soon after it."""
        batches: Any = self.batch_sampler
        awaited: list[SampleKey] = next(itertools.islice(iter(batches), self.delivered, None), [])
        samples = ", ".join(str(index) for _, index in awaited)
        reason = " ".join(str(error).split())
        full = errno.ENOSPC in exit_codes or shared_memory_full(error, exit_codes)
        fix = (
            "workers send batches through /dev/shm, which is full: enlarge it (docker run --shm-size=8g), or set data.num_workers=0"
            if full
            else "the system ends processes that need too much memory: set data.num_workers to fewer, or 0"
        )
        return (
            f"a data worker died ({reason}) while training waited for batch {self.delivered}, samples {samples}; {fix}; resume "
            "the run from its checkpoint with resume=, or let it restart automatically with --max-restarts"
        )
