"""The retrieval table that a run prints at its end: the model, what it is compared with, and chance."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

DIRECTIONS = (("image_to_text", "image → text"), ("text_to_image", "text → image"))


def retrieval_table(
    rows: Mapping[str, Mapping[str, float]], *, title: str = "retrieval", ks: tuple[int, ...] = (1, 5, 10)
) -> Table:
    """rows: name of the row → figures such as `image_to_text_r1`, in percent; a figure that a row lacks is a dash.

    The highest figure of each column is bold, the row `chance` is dim.
    """
    names = [f"{key}_r{k}" for key, _ in DIRECTIONS for k in ks]
    best = {name: max((row[name] for row in rows.values() if name in row), default=0.0) for name in names}
    table = Table(title=escape(title), title_style="bold", header_style="", show_edge=True)
    table.add_column("")
    for _, direction in DIRECTIONS:
        for index, k in enumerate(ks):
            table.add_column(f"{direction}\nR@{k}" if index == 0 else f"\nR@{k}", justify="right")

    def cell(row: Mapping[str, float], name: str) -> str:
        if name not in row:
            return "–"
        text = f"{row[name]:.1f}" if row[name] >= 1 or row[name] == 0 else f"{row[name]:.2f}"
        return f"[bold]{text}[/bold]" if row[name] == best[name] else text

    for label, row in rows.items():
        table.add_row(escape(label), *(cell(row, name) for name in names), style="dim" if label == "chance" else "")
    return table
