"""results.json: the final figures by name, what they cost, and the protocol card that says what they mean."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlp.system.atomic import atomic_write_json

_LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "torchmetrics")


def write_results(folder: Path, figures: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and the card as one flat object, written atomically; a figure that is undefined is null."""
    # single precision holds seven digits
    rounded = {key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in figures.items()}
    results = {**rounded, **card}
    atomic_write_json(folder / "results.json", results)
    return results


def protocol_card(
    config: dict[str, Any], data: str, splits: Mapping[str, Any], *, selected: bool = True
) -> dict[str, Any]:
    """Commit, seed, data, what selected the checkpoint, what the weights have seen, the splits and the versions.

    data: its name.  splits: what was measured, see `vlp.data.parts.eval_split_statistics`.  selected: whether the weights are
    those that `monitor` selected.
    """
    values: dict[str, Any] = {"commit": git_commit(), "seed": config["seed"], "data": data}
    values["selected_on"] = "val" if selected and "monitor" in config else None
    values["pretrained_on"] = _pretrained_weights(config)
    return values | dict(splits) | {f"version/{name}": version(name) for name in _LIBRARIES}


def extent(results: Mapping[str, Any], figure: str, key: str) -> Any:
    """A fact about the samples that a figure <split>/<source>/<task>/<metric> was measured on; None where it is not known, and
    of other numbers.  key: "part" (such as "2 of 6 samples"; None = everything) or "sha256"."""
    if figure.count("/") != 3:
        return None
    split, source, task, _ = figure.split("/")
    prefixes = (f"{split}/{source}/{task}", f"{split}/{task}", f"{split}/{source}", split)
    return next((value for prefix in prefixes if (value := results.get(f"{prefix}/{key}")) is not None), None)


def _pretrained_weights(config: dict[str, Any]) -> list[str]:
    """What the weights had seen before this run: the starting checkpoint, and each tower that is not random."""
    start = [str(config["checkpoint"])] if config.get("checkpoint") else []
    return start + list(_nodes_with_weights(config.get("model", {})))


def _nodes_with_weights(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        weights, name = node.get("weights"), _describe_target(node.get("name"))
        if weights:
            yield name if weights in (True, "pretrained") else f"{name}: {_describe_target(weights)}"
        for value in node.values():
            yield from _nodes_with_weights(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes_with_weights(value)


def _describe_target(value: Any) -> str:
    """A computed value by what it calls."""
    if not isinstance(value, dict):
        return str(value)
    arguments = ", ".join(f"{key}={item}" for key, item in value.items() if key != "_target_")
    return f"{value.get('_target_')}({arguments})"


def git_commit() -> str | None:
    """The checkout's commit, with '+' when files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
