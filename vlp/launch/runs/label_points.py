"""Figures of trained runs against the number of training images that they saw, for a row of the label curve."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from vlp.launch.config.errors import ConfigError


def read_label_points(folder: Path, figure: str, total: int) -> dict[int, list[float]]:
    """By `data.max_train_samples` (null = total, all training images), the figure of each finished run below the folder.

    figure: of the task classification, on test.  Raises ConfigError where there is none.
    """
    points: dict[int, list[float]] = defaultdict(list)
    for file in sorted(folder.expanduser().rglob("results.json")):
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        values = [
            value
            for name, value in results.items()
            if name.startswith("test/") and name.endswith(f"/classification/{figure}") and value is not None
        ]
        if len(values) != 1:
            continue
        config = yaml.safe_load((file.parent / "config.yaml").read_text(encoding="utf-8"))
        points[config["data"].get("max_train_samples") or total].append(values[0])
    if not points:
        raise ConfigError(
            f"tasks.label_efficiency.runs: no run below {folder} has test/…/classification/{figure}: give a folder of finished "
            "runs of task=[classification]"
        )
    return dict(sorted(points.items()))
