"""A lock keeps other processes out, and ends with the process that has it."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from vlp.system.locks import exclusive_lock


def taken() -> Exception:
    return ValueError("taken")


def keep(file: Path, ready) -> None:
    with exclusive_lock(file):
        ready.set()
        signal.pause()


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=keep, args=(tmp_path / ".lock", ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match="taken"), exclusive_lock(tmp_path / ".lock", taken):
        pass
    os.kill(other.pid, signal.SIGKILL)
    with exclusive_lock(tmp_path / ".lock"):  # waits for the kernel to give it back
        other.join()
