"""How far the files are: bars in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, Task, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from vlp.system.progress import LINE_EVERY, bars
from vlp.system.units import readable_bytes

ACTIVE = ("downloading", "checking", "unpacking")


@dataclass
class Tally:
    """Written by the thread that has the file in hand, read by the one that shows it.

    done, total: bytes, or members while unpacking.  received: bytes that came over the network in this run.
    note: something to tell once.
    """

    name: str
    total: int | None = None
    done: int = 0
    received: int = 0
    stage: str = "waiting"
    note: str = ""


class Report:
    def __init__(self, tallies: Sequence[Tally], *, line_every: float = LINE_EVERY) -> None:
        self.tallies, self.line_every = tallies, line_every
        self.console = Console(stderr=True)
        how_far = TextColumn("{task.fields[how_far]}", markup=False)
        self.bars = bars(how_far, _Speed(), console=self.console) if self.console.is_terminal else None
        self.tasks: dict[str, tuple[str, TaskID]] = {}
        self.last = self.began = time.monotonic()
        self.last_received = 0

    def __enter__(self) -> Report:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self.bars:
            self.bars.stop()

    def update(self) -> None:
        for tally in self.tallies:
            if tally.note:
                note, tally.note = tally.note, ""
                self.say(f"{tally.name}: {note}")
        if self.bars:
            self._move(self.bars)
        elif time.monotonic() - self.last >= self.line_every:
            self.say(self.line())

    def say(self, text: str) -> None:
        if self.bars:
            self.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def line(self) -> str:
        now, received = time.monotonic(), sum(tally.received for tally in self.tallies)
        speed = (received - self.last_received) / max(now - self.last, 1e-3)
        self.last, self.last_received = now, received
        active = [tally for tally in self.tallies if tally.stage in ACTIVE]
        complete = sum(tally.stage == "complete" for tally in self.tallies)
        shown = [f"{tally.name} {tally.stage}{_how_far(tally)}" for tally in active]
        return "; ".join([*shown, f"{readable_bytes(speed)}/s", f"{complete} of {len(self.tallies)} files complete"])

    def _move(self, bars: Progress) -> None:
        for tally in self.tallies:
            stage, task = self.tasks.get(tally.name, ("", TaskID(0)))
            if tally.stage != stage and stage:
                bars.remove_task(task)
                del self.tasks[tally.name]
            if tally.stage in ACTIVE:
                if tally.stage != stage:
                    task = bars.add_task(f"{tally.name} {tally.stage}", total=tally.total, how_far="")
                    self.tasks[tally.name] = tally.stage, task
                bars.update(task, total=tally.total, completed=tally.done, how_far=_how_far(tally))


class _Speed(TransferSpeedColumn):
    """Only where the steps are bytes."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.description.endswith("downloading") else Text("")


def _how_far(tally: Tally) -> str:
    if tally.stage == "checking":
        return ""
    if tally.stage == "unpacking":
        return f" {tally.done} of {tally.total} files" if tally.total else f" {tally.done} files"
    return (
        f" {readable_bytes(tally.done)} of {readable_bytes(tally.total)}"
        if tally.total
        else f" {readable_bytes(tally.done)}"
    )
