"""`vlp compare RUN…`: what differs between runs, beside their final figures.

Runs whose configs differ only in `seed` become one row: mean ± sample standard deviation over the seeds. A seed that was
run several times counts once, by its newest finished run.
"""

from __future__ import annotations

import csv
import json
import os
import re
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from rich.console import Console

from vlp.launch.config.changes import dotted_items
from vlp.launch.config.errors import ConfigError, join_names
from vlp.launch.runs.folder import header_comments, origin_of_header
from vlp.launch.runs.results import extent
from vlp.system import tables
from vlp.system.atomic import check_output_file
from vlp.system.errors import UserError
from vlp.system.suggest import did_you_mean
from vlp.upgrade import upgrade

MAIN = re.compile(r"^(?!.*chance).*(_r1|accuracy|top1|score)$")
# None of them changes what is trained or measured. Averages of the weights and early stopping do.
IGNORED = re.compile(
    r"(seed|resume|runs|sweep|loggers|callbacks\.(checkpoint|progress|pictures|baseline|ranks_agree))(\.|$)|callbacks\..*\.monitor$"
)


class Run(NamedTuple):
    folder: Path
    seed: Any
    settings: dict[str, Any]  # dotted keys, without those that IGNORED matches and paths in the run folder
    figures: dict[str, float] | None  # None: unfinished
    monitor: str | None = None  # the figure that chose best.ckpt
    results: Mapping[str, Any] = MappingProxyType({})  # all of results.json


class ComparisonRow(NamedTuple):
    """Runs that differ at most in their seed."""

    settings: dict[str, Any]
    runs: list[Run]  # one for each seed
    repeats: list[Run]  # older or unfinished ones of the same seeds
    figures: dict[str, tuple[float, float | None]]  # mean and standard deviation over the finished runs
    parts: dict[str, str]  # of the figures that were measured on a part of their split, such as "2 of 6 samples"


def compare(
    folders: Sequence[Path], *, metrics: Sequence[str] = (), csv_file: Path | None = None, as_json: bool = False
) -> None:
    """Print the table, or JSON; write it as CSV where asked."""
    runs = find_runs(folders)
    available = sorted({name for run in runs for name in run.figures or ()})
    chosen = [name for text in metrics for name in match_figures(text, available)] or main_figures(
        available, monitored=dict.fromkeys(run.monitor for run in runs if run.monitor)
    )
    rows = comparison_rows(runs, chosen)
    if csv_file is not None:
        check_output_file(csv_file, suffixes=(".csv", ".tsv", ".txt"))
        with open(csv_file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(
                [
                    *rows[0].settings,
                    "seeds",
                    "finished",
                    "repeats",
                    *(name + suffix for name in chosen for suffix in ("", " std", " part")),
                ]
            )
            for row in rows:
                figures = [
                    value for name in chosen for value in (*row.figures.get(name, (None, None)), row.parts.get(name))
                ]
                writer.writerow(
                    [*row.settings.values(), len(row.runs), count_finished(row), len(row.repeats), *figures]
                )
    if as_json:
        records = [
            {
                **row._asdict(),
                "runs": {str(run.folder): run.figures for run in row.runs},
                "repeats": [str(run.folder) for run in row.repeats],
            }
            for row in rows
        ]
        print(json.dumps(records, indent=2, default=str))
    else:
        print_rows(rows, chosen)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The run folders (those with a config.yaml) at or below each folder, in order of path."""
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder; name a run, or a folder of runs such as runs/scenes")
    found = {folder: sorted(folder.rglob("config.yaml")) for folder in folders}
    for folder, own in found.items():
        if not own:
            raise ConfigError(f"{folder}: no run in it (a run folder holds config.yaml)")
    files = {file.resolve(): file for own in found.values() for file in own}
    return [load_run(file) for file in files.values()]


def load_run(file: Path) -> Run:
    folder, figures = file.parent, None
    results: dict[str, Any] = {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise UserError("config.yaml has no keys")
        config = dict(dotted_items(upgrade(content)))
        if (folder / "results.json").is_file():
            text = (folder / "results.json").read_text(encoding="utf-8")
            results = json.loads(text, parse_constant=_refuse_constant)
            figures = {key: float(value) for key, value in results.items() if type(value) in (int, float)}
    except (yaml.YAMLError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{folder}: config.yaml or results.json is not readable: {' '.join(str(error).split())}"
        ) from error
    own = _own_paths(folder)
    settings = {
        key: value
        for key, value in config.items()
        if not IGNORED.match(key) and not any(f"{path}/" in f"{value}/" for path in own)
    }
    return Run(folder, config.get("seed"), settings, figures, config.get("monitor"), results)


def _refuse_constant(name: str) -> None:
    raise UserError(f"{name} is no figure")


def _own_paths(folder: Path) -> set[str]:
    """The run folder as it lies now, and as its config names it, which may be from before it was moved."""
    named, cwd = origin_of_header(header_comments(folder))
    earlier = set() if named is None or cwd is None else {named, str(cwd / named)}
    return (earlier or {f"{folder.parent.name}/{folder.name}"}) | {str(folder.absolute()), str(folder.resolve())}


def _finished_at(run: Run) -> float:
    """Seconds since 1970: the time of the last figure, which copying keeps, else of the file of results."""
    try:
        with open(run.folder / "metrics.jsonl", "rb") as stream:
            last = deque(stream, maxlen=1)
        return float(json.loads(last[0])["time"])
    except (OSError, ValueError, LookupError, TypeError):
        results = run.folder / "results.json"
        return results.stat().st_mtime if results.is_file() else 0.0


def comparison_rows(runs: Sequence[Run], metrics: Sequence[str]) -> list[ComparisonRow]:
    """One row for each config. Where a `_target_` differs, it stands for all that lies beside and below it."""
    names = sorted({key for run in runs for key in run.settings})
    keys = [key for key in names if len({json.dumps(run.settings.get(key), default=str) for run in runs}) > 1]
    parts = tuple(key.removesuffix("_target_") for key in keys if key.endswith("_target_"))
    columns = [key for key in keys if key.endswith("_target_") or not key.startswith(parts or "\0")]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.settings.get(key) for key in keys], default=str), []).append(run)
    rows = []
    for found in groups.values():
        counted: dict[Any, Run] = {}
        for run in sorted(found, key=_finished_at):
            if run.seed not in counted or run.figures is not None or counted[run.seed].figures is None:
                counted[run.seed] = run
        group = list(counted.values())
        values = {name: [run.figures[name] for run in group if run.figures and name in run.figures] for name in metrics}
        spread = {
            name: (statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None) for name, v in values.items() if v
        }
        repeats = [run for run in found if run not in group]
        texts = {name: dict.fromkeys(extent(run.results, name, "part") for run in group) for name in spread}
        extents = {name: ", ".join(filter(None, found)) for name, found in texts.items() if any(found)}
        settings = {key: group[0].settings.get(key) for key in columns}
        rows.append(ComparisonRow(settings, group, repeats, spread, extents))
    return rows


def match_figures(text: str, available: Sequence[str]) -> list[str]:
    """The figure of that name, else those whose names contain the text."""
    found = [name for name in available if name == text] or [name for name in available if text in name]
    if not found:
        hint = did_you_mean(text, available) or f" there are {join_names(available) or 'none yet'}"
        raise ConfigError(f"--metric {text}: no run has such a figure:{hint}")
    return found


def main_figures(names: Iterable[str], *, monitored: Iterable[str] = (), limit: int = 4) -> list[str]:
    """The few to show unasked: first those that the runs monitored, then recall at 1 and accuracies on the test split, else on
    validation."""
    names = [name for name in names if "/" in name]
    first = [name for name in monitored if name in names]
    chosen = [name for name in names if name.startswith("test/")] or [name for name in names if name.startswith("val/")]
    main = [name for name in chosen if MAIN.search(name)] or chosen
    return list(dict.fromkeys([*first, *main[:limit]]))


def short_names(names: Sequence[str]) -> list[str]:
    """The last part of each name where that still tells them apart."""
    last = [name.removesuffix("._target_").rpartition("/")[2].rpartition(".")[2] for name in names]
    return [part if last.count(part) == 1 else name for part, name in zip(last, names, strict=True)]


def figure_headers(names: Sequence[str]) -> list[str]:
    """`short`, with the split where the figures are of several."""
    splits = [name.partition("/")[0] for name in names]
    several = len(set(splits)) > 1
    tails = zip(splits, short_names([name.partition("/")[2] for name in names]), strict=True)
    return [f"{split} {tail}" for split, tail in tails] if several else short_names(names)


def count_finished(row: ComparisonRow) -> int:
    return sum(run.figures is not None for run in row.runs)


def summarize_figure(figure: tuple[float, float | None] | None, *, part: bool = False) -> str:
    mean, spread = figure or (None, None)
    if mean is None:
        return ""
    return f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.2g}") + (" (part)" if part else "")


def _notes_on_samples(rows: Sequence[ComparisonRow], metrics: Sequence[str]) -> list[str]:
    """Where figures are of a part of a split, or not all of the same samples."""
    notes = []
    if parts := dict.fromkeys(f"{name.split('/')[0]}: {text}" for row in rows for name, text in row.parts.items()):
        notes.append(f"(part): measured on a part of the split ({'; '.join(parts)})")
    for name in metrics:
        digests = {
            extent(run.results, name, "sha256") for row in rows for run in row.runs if name in (run.figures or ())
        }
        if len(digests - {None}) > 1:
            notes.append(f"{name} was not measured on the same samples in all runs")
    return notes


def print_rows(rows: Sequence[ComparisonRow], metrics: Sequence[str]) -> None:
    base = os.path.commonpath([run.folder.parent for row in rows for run in row.runs])
    first = [
        ("(first) run", [os.path.relpath(row.runs[0].folder, base or ".") for row in rows]),
        (
            "finished",
            [f"{count_finished(row)} of {len(row.runs)}" if count_finished(row) else "unfinished" for row in rows],
        ),
    ]
    settings = [
        (header, [_cell(key, row.settings[key]) for row in rows])
        for key, header in zip(rows[0].settings, short_names(list(rows[0].settings)), strict=True)
    ]
    figures = [
        (header, [summarize_figure(row.figures.get(name), part=name in row.parts) for row in rows])
        for name, header in zip(metrics, figure_headers(metrics), strict=True)
    ]
    # one setting at least tells the rows apart, and one figure is what was asked for; then figures come before settings
    left = Console().width - sum(map(_width, [*first, *settings[:1], *figures[:1]]))
    more_figures, left = _columns_that_fit(figures[1:], left)
    more_settings, left = _columns_that_fit(settings[1:], left)
    notes = [
        f"{len(columns) - 1 - len(more)} more {what}: see --csv or --json"
        for columns, more, what in ((settings, more_settings, "settings differ"), (figures, more_figures, "figures"))
        if len(columns) - 1 > len(more)
    ]
    notes += _notes_on_samples(rows, metrics[: 1 + len(more_figures)])
    figures, settings = [*figures[:1], *more_figures], [*settings[:1], *more_settings]
    if repeats := sum(len(row.repeats) for row in rows):
        notes.append(f"{repeats} older or unfinished runs of the same seed are not counted")
    columns = [*first, *settings, *figures]
    cells = zip(*(cells for _, cells in columns), strict=True)
    tables.print_table(
        tables.build_table([header for header, _ in columns], cells, title=base, caption="; ".join(notes) or None)
    )


def _cell(key: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def _columns_that_fit(columns: list[tuple[str, list[str]]], left: int) -> tuple[list[tuple[str, list[str]]], int]:
    """As many of the first columns as the width that is left has room for, and what is then left."""
    count = 0
    for column in columns:
        if (left := left - _width(column)) < 0:
            break
        count += 1
    return columns[:count], left


def _width(column: tuple[str, list[str]]) -> int:
    """Of its longest text and of the lines and spaces around it."""
    return max(map(len, [column[0], *column[1]])) + 3
