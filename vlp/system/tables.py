"""Tables on the terminal, all in one style. Cells are texts: what stands in square brackets is no markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 110  # columns, for tables whose lines must not wrap where there is no terminal


def build_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    caption: str | None = None,
    numbers: Sequence[str] = (),
) -> Table:
    """rows: a cell for each column; a Text brings its own style.  numbers: the columns that are aligned to the right."""
    made = Table(
        title=None if title is None else Text(title, style="bold"),
        caption=None if caption is None else Text(caption),
        header_style="",
    )
    for name in columns:
        made.add_column(Text(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def print_table(*tables: Table, width: int | None = None) -> None:
    """Print on stdout.  width: in columns; None = of the terminal."""
    console = _Console(width=width)
    for one in tables:
        console.print(one)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Left to `end_with_reader`; rich would end the process here."""
        raise BrokenPipeError
