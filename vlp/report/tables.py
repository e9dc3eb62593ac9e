"""The retrieval table that a run prints at its end: the model, what it is compared with, and chance."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from vlp.system.tables import table

DIRECTIONS = (("image_to_text", "image → text"), ("text_to_image", "text → image"))


def retrieval_table(
    rows: Mapping[str, Mapping[str, float]], *, title: str = "retrieval", ks: tuple[int, ...] = (1, 5, 10)
) -> Table:
    """rows: name of the row → figures such as `image_to_text_r1`, in percent; a figure that a row lacks is a dash.

    The highest figure of each column is bold, the row `chance` is dim.
    """
    names = [f"{key}_r{k}" for key, _ in DIRECTIONS for k in ks]
    best = {name: max((row[name] for row in rows.values() if name in row), default=0.0) for name in names}
    columns = [
        f"{direction}\nR@{k}" if index == 0 else f"\nR@{k}" for _, direction in DIRECTIONS for index, k in enumerate(ks)
    ]

    def cell(label: str, row: Mapping[str, float], name: str) -> Text:
        if name not in row:
            return Text("–")
        text = f"{row[name]:.1f}" if row[name] >= 1 or row[name] == 0 else f"{row[name]:.2f}"
        return Text(text, style="dim" if label == "chance" else "bold" if row[name] == best[name] else "")

    lines = [
        [Text(label, style="dim" if label == "chance" else ""), *(cell(label, row, name) for name in names)]
        for label, row in rows.items()
    ]
    return table(["", *columns], lines, title=title, numbers=columns)
