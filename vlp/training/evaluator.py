"""One evaluation: every task on every source that it applies to, one source after another.

Lightning goes through the sources' loaders in order. A task is reset and prepared for a source, updated on its batches
and computed before the next source begins, so it holds the material of one source at a time. Ranks may have batches of
different sources, or none; each of them takes every step of this in the same order, since `compute` gathers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vlp.distributed import gather_objects
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch
from vlp.tasks.base import Task
from vlp.tokenizers.base import Tokenizer


class Measurement:
    """sources: data modules by name, in the order of their loaders.

    figures: "<source>/<task>/<metric>", the same on every rank.  pictured: by (source, task), see `Task.figures`.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        tasks: Mapping[str, Task],
        sources: Mapping[str, Any],
        tokenizer: Tokenizer | None,
        split: str = "val",
    ) -> None:
        self.model, self.tasks, self.tokenizer, self.split = model, tasks, tokenizer, split
        self.sources = list(sources.items())
        self.figures: dict[str, float] = {}
        self.pictured: dict[tuple[str, str], dict[str, object]] = {}
        self._position = -1  # of the source that is open
        self._measured: set[str] = set()  # tasks that had a batch of it
        self._start_source(0)

    def update(self, batch: Batch | None, *, source: int, step: int) -> None:
        """batch: None = this rank has no sample of the source.  source: its position among the sources, Lightning's
        dataloader_idx."""
        self._start_source(source)
        if batch is None:
            return
        name = self.sources[source][0]
        active = {task: self.tasks[task] for task in self.tasks if self.tasks[task].applies(batch, name)}
        if not active:
            return
        self._measured |= active.keys()
        fields = set().union(*(task.uses for task in active.values()))
        features = compute_features(self.model, batch, fields, step=step)
        for task in active.values():
            task.update(self.model, batch, features)

    def finish(self) -> dict[str, float]:
        """All figures, after the last batch of the last source."""
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
        self._measured = set()
        for task in self._tasks_of_source(name).values():
            task.reset()
            task.split = self.split
            task.prepare(self.model, self.tokenizer, data)  # type: ignore[arg-type]  # None where data have no text

    def _close(self) -> None:
        source = self.sources[self._position][0]
        measured = set().union(*gather_objects(self._measured))  # a rank without samples still has to join in
        for name, task in self._tasks_of_source(source).items():
            if name in measured:
                figures = task.compute(self.model)
                self.figures |= {f"{source}/{name}/{key}": float(value) for key, value in figures.items()}
                self.pictured[source, name] = dict(task.figures())
            task.reset()  # token states of a whole split are gigabytes
