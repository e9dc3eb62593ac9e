"""results.json: the final figures by name, what they cost, and the protocol card that says what they mean."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlp.data.base import DataModule
from vlp.data.mixture import Mixture
from vlp.launch.run_folder import write_json
from vlp.report.tables import retrieval_table
from vlp.system.progress import on_terminal
from vlp.system.tables import PLAIN_WIDTH, show

_LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "torchmetrics")


def write_results(
    folder: Path, figures: dict[str, Any], config: dict[str, Any], data: DataModule | Mixture
) -> dict[str, Any]:
    """Figures and the card as one flat object, written atomically."""
    rounded = {key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in figures.items()}
    results = rounded | card(config, data)  # single precision holds seven digits
    write_json(folder / "results.json", results)
    return results


def card(config: dict[str, Any], data: DataModule | Mixture) -> dict[str, Any]:
    """Commit, versions, and for each measured split (of several sources: <split>/<source>) its images, its captions and
    questions, and the sha256 of its file names and texts."""
    values: dict[str, Any] = {"commit": commit(), "seed": config["seed"], "data": data.name}
    values["selected_on"] = "val" if "monitor" in config else None
    values["pretrained_on"] = _pretrained(config)
    for split in ("val", "test"):
        for name, source in data.measured(split).items():
            samples = source.split(split)
            place = split if list(data.sources) == [data.name] else f"{split}/{name}"
            values[f"{place}/images"] = len({sample.id for sample in samples})
            values[f"{place}/captions"] = sum(len(sample.captions) for sample in samples)
            if questions := sum(sample.question is not None for sample in samples):
                values[f"{place}/questions"] = questions
            values[f"{place}/sha256"] = source.fingerprint(split)
    return values | {f"version/{name}": version(name) for name in _LIBRARIES}


def print_table(results: dict[str, Any], folder: Path) -> None:
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


def _pretrained(config: dict[str, Any]) -> list[str]:
    """What the weights had seen before this run: the starting checkpoint, and each tower that is not random."""
    start = [str(config["checkpoint"])] if config.get("checkpoint") else []
    return start + list(_with_weights(config.get("model", {})))


def _with_weights(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        weights, name = node.get("weights"), _told(node.get("name"))
        if weights:
            yield name if weights in (True, "pretrained") else f"{name}: {_told(weights)}"
        for value in node.values():
            yield from _with_weights(value)
    elif isinstance(node, list):
        for value in node:
            yield from _with_weights(value)


def _told(value: Any) -> str:
    """A computed value by what it calls."""
    if not isinstance(value, dict):
        return str(value)
    arguments = ", ".join(f"{key}={item}" for key, item in value.items() if key != "_target_")
    return f"{value.get('_target_')}({arguments})"


def commit() -> str | None:
    """The checkout's commit, with '+' when files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
