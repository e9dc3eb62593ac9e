"""What a run prints at its end: the retrieval table of the model, what it is compared with, and chance; and other figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

DIRECTIONS = (("image_to_text", "image → text"), ("text_to_image", "text → image"))


def print_results(results: dict[str, Any], folder: Path) -> None:
    """The retrieval figures beside the baseline's and chance, any other task's figures, and where the rest lies."""
    console = Console(width=None if Console().is_terminal else 110)
    split = "test" if any(key.startswith("test/") and of_a_task(key) for key in results) else "val"
    measured = [(key.split("/"), value) for key, value in results.items() if key.startswith(f"{split}/")]
    figures = [(*parts[1:], value) for parts, value in measured if len(parts) == 4]
    for source in dict.fromkeys(source for source, *_ in figures):
        _print_source(
            console, source, split, {(task, metric): v for name, task, metric, v in figures if name == source}
        )
    seconds = results.get("train_seconds")
    took = f"trained {seconds:.0f} s, " if seconds is not None else ""
    pictures = " and pictures" if (folder / "plots").is_dir() else ""
    console.print(
        f"{took}{results['seconds']:.0f} s in all; results{pictures}: {folder}", markup=False, highlight=False
    )


def of_a_task(name: str) -> bool:
    """Whether this names a figure: val|test/<source>/<task>/<metric>."""
    return name.count("/") == 3


def _print_source(console: Console, source: str, split: str, figures: dict[tuple[str, str], float]) -> None:
    rows: dict[str, dict[str, float]] = {"model": {}}
    others: list[tuple[str, str]] = []
    for (task, metric), value in figures.items():
        row = "model" if task == "retrieval" else task.replace("_", " ")
        if metric.startswith("chance_") and task == "retrieval":
            rows.setdefault("chance", {})[metric.removeprefix("chance_")] = value
        elif metric.startswith(("image_to_text_r", "text_to_image_r")):
            rows.setdefault(row, {})[metric] = value
        else:
            others.append((row, f"{source} {row}, {metric.replace('_', ' ')}: {value:.1f}"))
    if rows["model"]:
        rows["chance"] = rows.pop("chance")  # the last row
        console.print(retrieval_table(rows, title=f"{source}, {split} split, percent"))
    for line in (line for row, line in others if row not in rows):
        console.print(line, markup=False, highlight=False)


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
