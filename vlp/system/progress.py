"""How far a long piece of work is: bars on a terminal, and a line every few seconds where there is none. On stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 10.0  # seconds


def on_terminal(*, stderr: bool = True) -> bool:
    """Whether somebody watches: bars are drawn there, and lines are written to files."""
    return Console(stderr=stderr).is_terminal


def progress_bars(*columns: ProgressColumn, console: Console | None = None) -> Bars:
    """Bars on stderr: what, the bar, the given columns, the time left. Finished bars leave no line behind."""
    what = TextColumn("{task.description}", markup=False)
    return Bars(
        what, BarColumn(), *columns, TimeRemainingColumn(), console=console or Console(stderr=True), transient=True
    )


class Progress:
    """Counts of one or several parts of the work, by name:

        with Progress("pairs") as progress:
            progress.update("reranking", done, total)

    unit: what is counted.  line_every: seconds between two lines where there is no terminal.  show: False prints nothing,
    as on the ranks of a job but the first.
    """

    def __init__(self, unit: str, *, line_every: float = SECONDS_BETWEEN_LINES, show: bool = True) -> None:
        self.unit, self.line_every, self.visible = unit, line_every, show
        columns = MofNCompleteColumn(), TextColumn(unit, markup=False)
        self._bars = progress_bars(*columns) if show and on_terminal() else None
        self._tasks: dict[str, TaskID] = {}
        self._last = self._began = time.monotonic()

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, name: str, done: int, total: int | None = None) -> None:
        """`done` of `total` so far; total None = not known yet."""
        if self._bars:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)
        elif self.visible and time.monotonic() - self._last >= self.line_every:
            self._last = time.monotonic()
            print(f"{name}: {self._line(done, total)}", file=sys.stderr, flush=True)

    def _line(self, done: int, total: int | None) -> str:
        if not total:
            return f"{done:,} {self.unit}"
        left = (time.monotonic() - self._began) * (total - done) / max(done, 1)
        return f"{done:,} of {total:,} {self.unit}" + (f", about {left:.0f} s left" if done else "")
