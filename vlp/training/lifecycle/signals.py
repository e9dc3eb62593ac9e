"""What a run does when a signal asks it to stop: it finishes its step, writes a checkpoint and exits.

SIGTERM: checkpoint, exit 143.  SIGINT (Ctrl-C): checkpoint, exit 130.  A second one: exit at once, but for a SIGTERM so soon
that it is the same one, sent to the process and by its parent.  SIGUSR1: checkpoint, and
training continues. The handlers only note what came; processes agree on it between steps, so a signal to one rank is one
to all. Lightning's own handlers run a collective inside the handler, which hangs when one rank alone is signalled
(Lightning-AI/pytorch-lightning#21406), and exit with 0; they are not installed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from vlp.system.compat.lightning import observe_child_processes, process_group_timeout, remove_signal_handling
from vlp.system.compat.torch import default_store
from vlp.system.exit_codes import INTERRUPTED, TERMINATED

STOP_KEY = "vlp/stop"
REPEATED_SIGNAL_S = 2.0  # seconds
STOP_TIMEOUT_S = 15.0  # seconds that rank 0 has to notice that it lost another rank
STOP = {signal.SIGTERM: TERMINATED, signal.SIGINT: INTERRUPTED}


class RunStopped(BaseException):
    """A signal stopped the run; a checkpoint was written first."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped by {'SIGINT' if code == INTERRUPTED else 'SIGTERM'}")
        self.code = code


class Signals:
    """What came so far. training: whether the loop looks here by itself; before and after it, a signal ends the process."""

    def __init__(self) -> None:
        self.stop_code, self.save, self.training, self.since = 0, False, False, 0.0
        self.began = False  # whether a step or an evaluation was begun
        self._group: Any = None
        self._store: Any = None
        self._timeout: timedelta | None = None

    def install(self) -> None:
        for number in STOP:
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_save)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop_code and number == signal.SIGTERM and time.monotonic() - self.since < REPEATED_SIGNAL_S:
            return
        again, self.since = bool(self.stop_code), time.monotonic()
        self.stop_code = STOP[signal.Signals(number)]
        if again:
            sys.stderr.write("stopped at once, by a second signal\n")
            sys.stderr.flush()
            os._exit(self.stop_code)
        if not self.training:
            self.request_stop()
            raise RunStopped(self.stop_code)

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def agree_on_signals(self, *wishes: int) -> list[int]:
        """(stop code, whether to save, further wishes), the largest of all ranks; every rank calls it at the same point."""
        own = [self.stop_code, int(self.save), *wishes]
        self.save = False
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            if self._group is None:  # over the host's memory: no wait for the accelerator
                self._group = dist.new_group(backend="gloo", timeout=self._timeout)
            values = torch.tensor(own)
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)
            own = values.tolist()
        return own

    @property
    def has_other_ranks(self) -> bool:
        """Whether there are other ranks, or were."""
        return self._store is not None

    def connect(self, trainer: L.Trainer) -> None:
        """Once the process group is there: what the ranks share besides collectives, also when the group is gone."""
        self._timeout = process_group_timeout(trainer.strategy)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._store = default_store()

    def request_stop(self) -> None:
        """The other ranks, of a stop that they have no part in deciding: this one ends now."""
        with suppress(RuntimeError):  # rank 0, which holds the store, has ended
            if self._store is not None:
                self._store.set(STOP_KEY, str(self.stop_code))

    def stop_requested(self) -> int:
        """The stop code of this rank, or that of one which has ended by it; 0 = none."""
        with suppress(RuntimeError):
            if not self.stop_code and self._store is not None and self._store.check([STOP_KEY]):
                self.stop_code = int(self._store.get(STOP_KEY))
        return self.stop_code


SIGNALS = Signals()


class _ChildObserver(threading.Thread):
    """Of rank 0, over the ranks that it started: Lightning's kills rank 0 within five seconds after one has failed. This one
    lets it end by itself (it loses its connection, or is waited for by nobody), and else ends it with that rank's exit
    code."""

    def __init__(self, children: Sequence[Any]) -> None:
        super().__init__(daemon=True)
        self.children = children

    def run(self) -> None:
        while not any(child.poll() for child in self.children):
            if all(child.returncode == 0 for child in self.children):
                return
            time.sleep(0.5)
        time.sleep(STOP_TIMEOUT_S)
        failed = next(child.returncode for child in self.children if child.returncode)
        sys.stderr.write(f"a rank ended with code {failed}, and this one waited for it in vain\n")
        sys.stderr.flush()
        for child in self.children:
            child.kill()
        os._exit(failed if failed > 0 else 1)


def replace_lightning_signals(trainer: L.Trainer) -> None:
    observe_child_processes(lambda children: _ChildObserver(children).start())
    remove_signal_handling(trainer)
