"""sweep.pruner: a trial whose validations fall behind those of the others is stopped.

The sweep reads the figures that a run writes to metrics.jsonl, so a run needs to know nothing of it. Steps are validations, not
optimiser steps: trials of other batch sizes are compared at the same share of their training.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlp.launch.config.errors import ConfigError

PRUNERS = ("median", "halving")
DEFAULTS = {"pruner": None, "pruner_startup_trials": 5, "pruner_warmup_validations": 1}


def check_pruner(settings: dict[str, Any]) -> None:
    if settings["pruner"] not in (None, *PRUNERS):
        raise ConfigError(f"sweep.pruner={settings['pruner']}: there are {', '.join(PRUNERS)}, and null for none")
    for key in ("pruner_startup_trials", "pruner_warmup_validations"):
        if type(settings[key]) is not int or settings[key] < 0:
            raise ConfigError(f"sweep.{key}={settings[key]}: expects a whole number, 0 or more")


def build_pruner(settings: dict[str, Any]) -> Any:
    from optuna import pruners

    if settings["pruner"] == "median":
        return pruners.MedianPruner(
            n_startup_trials=settings["pruner_startup_trials"],
            n_warmup_steps=settings["pruner_warmup_validations"],
        )
    if settings["pruner"] == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=max(1, settings["pruner_warmup_validations"]))
    return pruners.NopPruner()


def intermediate_figure(metric: str | None, config: dict[str, Any]) -> str | None:
    """The figure of validations that pruning compares: the sweep's own, or else the run's monitor."""
    return next((str(name) for name in (metric, config.get("monitor")) if str(name).startswith("val/")), None)


class ValidationFigures:
    """The values of one figure in metrics.jsonl of run folders, in the order of the validations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._read: dict[Path, tuple[int, list[float]]] = {}  # bytes and values, by file

    def of_run(self, folder: Path) -> list[float]:
        """Read again only when the file has another size: a run that continues from a checkpoint cuts it off first."""
        file = folder / "metrics.jsonl"
        with suppress(OSError):
            size = file.stat().st_size
            if self._read.get(file, (-1, []))[0] != size:
                self._read[file] = size, self._values(file)
        return self._read.get(file, (0, []))[1]

    def _values(self, file: Path) -> list[float]:
        values = []
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the last line may be half written
                values.append(float(json.loads(line)[self.name]))
        return [value if math.isfinite(value) else math.nan for value in values]
