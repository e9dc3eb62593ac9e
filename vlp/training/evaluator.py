"""One evaluation: every task on every source that it applies to, one source after another.

Lightning goes through the sources' loaders in order. A task is reset and prepared for a source, updated on its batches
and computed before the next source begins, so it holds the material of one source at a time. Ranks may have batches of
different sources, or none; each of them takes every step of this in the same order, since `compute` gathers.

A model's outputs are in the precision of the run; figures are computed from them outside autocast. A figure that is not
finite is an error, as a model that has diverged is; one that is undefined for these samples is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vlp.distributed import gather_objects
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer


class Measurement:
    """sources: data modules by name, in the order of their loaders.  model_precision: context of the run's precision.

    figures: "<source>/<task>/<metric>", the same on every rank.  counted: "<source>/<task>", how many samples of all ranks its
    figures count.  pictured: by (source, task), see `Task.figures`.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        tasks: Mapping[str, Task],
        sources: Mapping[str, Any],
        tokenizer: Tokenizer | None,
        split: str = "val",
        model_precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.tasks, self.tokenizer, self.split = model, tasks, tokenizer, split
        self.sources = list(sources.items())
        self.model_precision = model_precision
        self.figures: dict[str, float | None] = {}
        self.counted: dict[str, int] = {}
        self.pictured: dict[tuple[str, str], dict[str, object]] = {}
        self.cards: dict[str, str] = {}  # "<source>/<task>/<name>", see `Task.card`
        self._position = -1  # of the source that is open
        self._seen: Counter[str] = Counter()  # samples of this rank, by source
        self._measured: Counter[str] = Counter()  # samples of the open source on this rank, by task
        self._start_source(0)

    def update(self, batch: Batch | None, *, source: int, step: int) -> None:
        """batch: None = this rank has no sample of the source.  source: its position among the sources, Lightning's
        dataloader_idx."""
        self._start_source(source)
        if batch is None:
            return
        name = self.sources[source][0]
        self._seen[name] += len(batch)
        active = {task: self.tasks[task] for task in self.tasks if self.tasks[task].applies(batch, name)}
        if not active:
            return
        self._measured.update(dict.fromkeys(active, len(batch)))
        fields = set().union(*(task.uses for task in active.values()))
        levels = {level for task in active.values() for level in task.levels}
        features = compute_features(self.model, batch, fields, step=step, levels=levels)
        for task in active.values():
            task.update(self.model, batch, features)

    def samples(self) -> dict[str, list[int]]:
        """How many samples each rank has measured so far, by source."""
        seen: list[Counter[str]] = gather_objects(self._seen)
        return {name: counts for name, _ in self.sources if any(counts := [rank[name] for rank in seen])}

    def extent(self) -> dict[str, Any]:
        """What the figures are of, as plain data: "samples" of the sources that have figures, "counted", the names of the
        "undefined" figures, and the tasks' "cards"."""
        sources = {name.split("/")[0] for name in self.figures}
        return {
            "samples": {name: counts for name, counts in self.samples().items() if name in sources},
            "counted": self.counted,
            "undefined": [name for name, value in self.figures.items() if value is None],
            "cards": self.cards,
        }

    def finish(self) -> dict[str, float | None]:
        """All figures, after the last batch of the last source.  Raises UserError where one is not finite."""
        self._start_source(len(self.sources))
        for name, task in self.tasks.items():
            if not any(key.split("/")[1] == name for key in self.figures):
                source_names = ", ".join(source for source, _ in self.sources)
                rank_zero_warn(
                    f"{name} was not measured: batches of {source_names} lack one of {', '.join(task.requires)}"
                )
        return self.figures

    def _start_source(self, position: int) -> None:
        while self._position < position:
            if self._position >= 0:
                self._close()
            self._position += 1
            if self._position < len(self.sources):
                self._open()

    def _tasks_of_source(self, source: str) -> dict[str, Task]:
        return {name: task for name, task in self.tasks.items() if task.sources is None or source in task.sources}

    def _open(self) -> None:
        name, data = self.sources[self._position]
        self._measured = Counter()
        for task in self._tasks_of_source(name).values():
            task.reset()
            task.split, task.model_precision = self.split, self.model_precision
            with self.model_precision():  # also of the first source, before Lightning enters it for a batch
                task.prepare(self.model, self.tokenizer, data)  # type: ignore[arg-type]  # None where data have no text

    def _close(self) -> None:
        source = self.sources[self._position][0]
        tasks = self._tasks_of_source(source)
        counts = Counter({name: seen - tasks[name].left_out() for name, seen in self._measured.items()})
        gathered = gather_objects(counts)  # a rank without samples still has to join in
        for name, task in tasks.items():
            if any(name in rank for rank in gathered):
                with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
                    figures = {f"{source}/{name}/{key}": value for key, value in task.compute(self.model).items()}
                self.figures |= {key: _finite(key, value) for key, value in figures.items()}
                self.cards |= {f"{source}/{name}/{key}": value for key, value in task.card().items()}
                self.counted[f"{source}/{name}"] = sum(rank[name] for rank in gathered)
                self.pictured[source, name] = dict(task.figures())
            task.reset()  # token states of a whole split are gigabytes


def _finite(name: str, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise UserError(f"{name} is {float(value)}: the model has diverged; use an earlier checkpoint")
    return None if value is None else float(value)
