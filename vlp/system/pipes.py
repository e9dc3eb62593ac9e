"""Standard streams that nobody reads any more (`vlp … | head`), or that the parent has closed (`>&-`)."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import IO, Any

from vlp.system.exit_codes import BROKEN_PIPE


def open_closed_streams() -> None:
    """What was closed becomes the null device: else Python has no stream there, and the next file that is opened, such as a
    checkpoint, gets its number and with it what libraries print."""
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
            setattr(sys, f"__{name}__", getattr(sys, name))


def end_with_reader(command: Callable[[], int]) -> int:
    """The exit code of `command`; where its reader ended first, that of a process which SIGPIPE ended, and no traceback."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if has_reader(sys.stdout):
            raise  # it was another pipe
        discard(sys.stdout)
        return BROKEN_PIPE


def has_reader(stream: IO[str]) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def discard(stream: IO[str]) -> None:
    """What is written from now on, also by Python at exit, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class OutputWithoutReader:
    """A text stream that outlives its reader: the end of `| head` ends no training and no sweep."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            discard(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            discard(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
