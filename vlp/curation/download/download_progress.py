"""Progress of several downloads: bars in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, Task, TextColumn, TransferSpeedColumn
from rich.text import Text

from vlp.system.progress import SECONDS_BETWEEN_LINES, progress_bars
from vlp.system.units import readable_bytes

ACTIVE_STAGES = ("downloading", "checking", "unpacking")


@dataclass
class FileProgress:
    """Written by the thread that downloads the file, read by the one that prints.

    done, total: bytes, or members while unpacking.  received: bytes that came over the network in this run.
    message: printed once.
    """

    name: str
    total: int | None = None
    done: int = 0
    received: int = 0
    stage: str = "waiting"
    message: str = ""

    def amount(self) -> str:
        if self.stage == "checking":
            return ""
        if self.stage == "unpacking":
            return f" {self.done} of {self.total} files" if self.total else f" {self.done} files"
        return f" {readable_bytes(self.done)}" + (f" of {readable_bytes(self.total)}" if self.total else "")


class DownloadProgress:
    def __init__(self, files: Sequence[FileProgress], *, line_every: float = SECONDS_BETWEEN_LINES) -> None:
        self.files, self.line_every = files, line_every
        self.console = Console(stderr=True)
        amount = TextColumn("{task.fields[amount]}", markup=False)
        self.bars = progress_bars(amount, _SpeedColumn(), console=self.console) if self.console.is_terminal else None
        if self.bars:
            for file in files:
                self.bars.add_task(file.name, visible=False, amount="")
        self.last_line = time.monotonic()
        self.last_received = 0

    def __enter__(self) -> DownloadProgress:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self.bars:
            self.bars.stop()

    def update(self) -> None:
        for file in self.files:
            if file.message:
                message, file.message = file.message, ""
                self.print_line(f"{file.name}: {message}")
        if self.bars:
            self._update_bars(self.bars)
        elif time.monotonic() - self.last_line >= self.line_every:
            self.print_line(self.summary_line())

    def print_line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def summary_line(self) -> str:
        now, received = time.monotonic(), sum(file.received for file in self.files)
        speed = (received - self.last_received) / max(now - self.last_line, 1e-3)
        self.last_line, self.last_received = now, received
        complete = sum(file.stage == "complete" for file in self.files)
        active = [f"{file.name} {file.stage}{file.amount()}" for file in self.files if file.stage in ACTIVE_STAGES]
        return "; ".join([*active, f"{readable_bytes(speed)}/s", f"{complete} of {len(self.files)} files complete"])

    def _update_bars(self, progress_bars: Progress) -> None:
        for file, task in zip(self.files, progress_bars.tasks, strict=True):
            description = f"{file.name} {file.stage}"
            if task.description != description:  # the speed and the total of each stage are its own
                progress_bars.reset(task.id, description=description, visible=file.stage in ACTIVE_STAGES)
                task.total = file.total
            progress_bars.update(task.id, total=file.total, completed=file.done, amount=file.amount())


class _SpeedColumn(TransferSpeedColumn):
    """Only where the steps are bytes."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.description.endswith("downloading") else Text("")
