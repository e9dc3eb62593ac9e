"""What a run prints at its end: the retrieval table of the model, the baselines and chance; and the other figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vlp.launch.runs.results import extent
from vlp.system.progress import on_terminal
from vlp.system.tables import PLAIN_WIDTH, build_table, print_table

DIRECTIONS = (("image_to_text", "image → text"), ("text_to_image", "text → image"))


def print_results(results: dict[str, Any], folder: Path) -> None:
    """Prints the retrieval figures with the baseline's and chance, the other tasks' figures, and the folder of the rest."""
    split = "test" if any(key.startswith("test/") and is_task_figure(key) for key in results) else "val"
    measured = [(key.split("/"), value) for key, value in results.items() if key.startswith(f"{split}/")]
    figures = [(*names[1:], value) for names, value in measured if is_task_figure("/".join(names))]
    for source in dict.fromkeys(source for source, *_ in figures):
        names = {task: f"{split}/{source}/{task}/{metric}" for name, task, metric, _ in figures if name == source}
        parts = {task: extent(results, figure, "part") for task, figure in names.items()}
        _print_source_figures(
            source, split, {(task, metric): v for name, task, metric, v in figures if name == source}, parts
        )
    pictures = " and pictures" if (folder / "plots").is_dir() else ""
    print(f"{describe_durations(results)}; results{pictures}: {folder}", flush=True)


def describe_durations(results: dict[str, Any]) -> str:
    """`train_seconds` is the training time of all processes of the run since its first start, `this_process_train_seconds`
    the part of the last process, and `seconds` the total time of this process."""
    total = f"{results['seconds']:.0f} s in all"
    if "train_seconds" not in results:
        return total
    run, process = results["train_seconds"], results.get("this_process_train_seconds")
    if process is None or run - process < 1:
        return f"trained {run:.0f} s, {total}"
    return f"trained {run:.0f} s since the run's first start; this process: trained {process:.0f} s, {total}"


def is_task_figure(name: str) -> bool:
    """Whether the name has the form val|test/<source>/<task>/<metric>."""
    return name.count("/") == 3 and not name.endswith("/part")


LABEL_FIGURE = re.compile(r"(.+)_(shots|percent)_([\d.]+)(_interval)?")


def label_table(figures: Mapping[str, float | None], *, title: str) -> Table | None:
    """Rows are methods, columns numbers of labels; mean ± half of the 95 % interval. None without such figures."""
    cells: dict[str, dict[str, str]] = {}
    columns: dict[tuple[bool, float], str] = {}
    for name, value in figures.items():
        match = LABEL_FIGURE.fullmatch(name)
        if match is None or match[4] or value is None:
            continue
        heading = f"{match[3]} a class" if match[2] == "shots" else f"{match[3]} %"
        columns[match[2] != "shots", float(match[3])] = heading
        half = figures.get(f"{name}_interval")
        cells.setdefault(match[1].replace("_", " "), {})[heading] = f"{value:.1f}" + (
            "" if half is None else f"\n± {half:.1f}"
        )
    if not cells:
        return None
    headings = [columns[key] for key in sorted(columns)]
    lines = [[method, *(row.get(heading, "–") for heading in headings)] for method, row in cells.items()]
    caption = f"zero-shot: {figures['zero_shot']:.1f}" if figures.get("zero_shot") is not None else None
    return build_table(["", *headings], lines, title=title, caption=caption, numbers=headings)


def _print_source_figures(
    source: str, split: str, figures: dict[tuple[str, str], Any], parts: Mapping[str, str | None]
) -> None:
    """figures: by task and metric, None = undefined, a text = of the task's card.  parts: how much of the split each task
    measured, None = everything."""
    rows: dict[str, dict[str, float]] = {"model": {}}  # of the table of recalls
    others: list[tuple[str, str]] = []
    labels = {metric: value for (task, metric), value in figures.items() if task == "label_efficiency"}
    for (task, metric), value in figures.items():
        if task == "label_efficiency" and LABEL_FIGURE.fullmatch(metric):
            continue
        row = "model" if task == "retrieval" else task.replace("_", " ")
        part = f" (part of the {split} split: {parts[task]})" if parts[task] else ""
        if value is None:
            others.append((row, f"{source} {row}, {metric.replace('_', ' ')}: undefined{part}"))
        elif isinstance(value, str):
            others.append((row, f"{source} {row}, {metric.replace('_', ' ')}: {value}"))
        elif metric.startswith("chance_") and task == "retrieval":
            rows.setdefault("chance", {})[metric.removeprefix("chance_")] = value
        elif metric.startswith(("image_to_text_r", "text_to_image_r")):
            rows.setdefault(row, {})[metric] = value
        else:
            others.append((row, f"{source} {row}, {metric.replace('_', ' ')}: {value:.1f}{part}"))
    if rows["model"]:
        rows["chance"] = rows.pop("chance")  # the last row
        width = None if on_terminal(stderr=False) else PLAIN_WIDTH
        measured = f"part of the {split} split ({parts['retrieval']})" if parts["retrieval"] else f"{split} split"
        table = retrieval_table(rows, title=f"{source}, {measured}, percent", caption=_trivial_recalls(figures))
        print_table(table, width=width)
    if against_labels := label_table(labels, title=f"{source}, {split} split, percent against labels"):
        print_table(against_labels, width=None if on_terminal(stderr=False) else PLAIN_WIDTH)
    for line in (line for row, line in others if row not in rows):
        print(line)


def _trivial_recalls(figures: Mapping[tuple[str, str], float | None]) -> str | None:
    """A note where there are so few candidates that each is among the first 5 or 10."""
    counts = {"texts": figures.get(("retrieval", "captions")), "images": figures.get(("retrieval", "images"))}
    few = [f"{count:.0f} {name}" for name, count in counts.items() if count is not None and count <= 10]
    return f"recall at k is 100 for any model where there are k candidates or fewer: {', '.join(few)}" if few else None


def retrieval_table(
    rows: Mapping[str, Mapping[str, float]],
    *,
    title: str = "retrieval",
    ks: tuple[int, ...] = (1, 5, 10),
    caption: str | None = None,
) -> Table:
    """rows: name of the row → figures such as `image_to_text_r1`, in percent; a missing figure is shown as a dash.

    The highest figure of each column is bold, the row `chance` is dim.
    """
    names = [f"{key}_r{k}" for key, _ in DIRECTIONS for k in ks]
    best = {name: max((row[name] for row in rows.values() if name in row), default=0.0) for name in names}
    columns = [
        f"{heading}\nR@{k}" if index == 0 else f"\nR@{k}" for _, heading in DIRECTIONS for index, k in enumerate(ks)
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
    return build_table(["", *columns], lines, title=title, caption=caption, numbers=columns)
