"""What a run prints at its end: the retrieval table of the model, what it is compared with, and chance; and other figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vlp.system.progress import on_terminal
from vlp.system.tables import PLAIN_WIDTH, show, table

DIRECTIONS = (("image_to_text", "image → text"), ("text_to_image", "text → image"))


def print_results(results: dict[str, Any], folder: Path) -> None:
    """The retrieval figures beside the baseline's and chance, any other task's figures, and where the rest lies."""
    split = "test" if any(key.startswith("test/") and of_a_task(key) for key in results) else "val"
    measured = [(key.split("/"), value) for key, value in results.items() if key.startswith(f"{split}/")]
    figures = [(*parts[1:], value) for parts, value in measured if len(parts) == 4]
    for source in dict.fromkeys(source for source, *_ in figures):
        _print_source(source, split, {(task, metric): v for name, task, metric, v in figures if name == source})
    pictures = " and pictures" if (folder / "plots").is_dir() else ""
    print(f"{durations(results)}; results{pictures}: {folder}", flush=True)


def durations(results: dict[str, Any]) -> str:
    """What each duration counts. `train_seconds` is training in all processes of the run, from its first start on;
    `this_process_train_seconds` the part of it in the last process; `seconds` all that this process did."""
    here = f"{results['seconds']:.0f} s in all"
    if "train_seconds" not in results:
        return here
    trained, trained_here = results["train_seconds"], results.get("this_process_train_seconds")
    if trained_here is None or trained - trained_here < 1:
        return f"trained {trained:.0f} s, {here}"
    return f"trained {trained:.0f} s since the run's first start; this process: trained {trained_here:.0f} s, {here}"


def of_a_task(name: str) -> bool:
    """Whether this names a figure: val|test/<source>/<task>/<metric>."""
    return name.count("/") == 3


def _print_source(source: str, split: str, figures: dict[tuple[str, str], float]) -> None:
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
        width = None if on_terminal(stderr=False) else PLAIN_WIDTH
        show(retrieval_table(rows, title=f"{source}, {split} split, percent"), width=width)
    for line in (line for row, line in others if row not in rows):
        print(line)


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
