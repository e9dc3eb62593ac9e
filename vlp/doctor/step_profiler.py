"""Real training steps of the config, whose state is thrown away: two small ones that tell what a sample's activations take,
then full ones that are timed. Runs in the probe's process, under Lightning, as training does."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.autograd.graph import saved_tensors_hooks

from vlp.doctor.memory_estimate import MemoryEstimate, scale_activations

SMALL = 16  # samples of the larger of the two small steps
STEPS = 20  # full steps at most


def scale_batch(rows: int, share: float) -> int:
    """At least two samples: a batch norm needs them."""
    return min(rows, max(2, math.ceil(rows * share)))


class SmallBatchesFirst:
    """A batch sampler that gives the first rows of its first two batches, then those of one process of `world`."""

    def __init__(self, sampler: Any, *, world: int, shares: tuple[float, float]) -> None:
        self.sampler, self.rows = sampler, max(1, sampler.batch_size // world)
        self.sizes = [scale_batch(self.rows, share) for share in shares]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["sampler"], name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.sampler:
            size = self.sizes.pop(0) if self.sizes else self.rows  # of all epochs: one may have a single batch
            yield batch[:size]


class MeasureSteps(L.Callback):
    """until: time.monotonic() at which no further step begins.  allowed: whether a full step of this
    estimate may be taken."""

    def __init__(
        self, *, world: int, counted: MemoryEstimate, until: float, allowed: Callable[[MemoryEstimate], bool]
    ) -> None:
        self.world, self.counted, self.until, self.allowed = world, counted, until, allowed
        self.points: list[tuple[int, int]] = []  # samples of a small step, and the bytes that autograd kept
        self.seconds: list[float] = []
        self.batch_bytes = self.rows = self.peak = self.done = 0
        self.memory = counted
        self.in_batch: list[str] = []
        self._kept: dict[int, int] = {}
        self._before = 0  # bytes of the process without the model, after its data were read

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self._before = max(0, resident_bytes() - self.counted.parameters - self.counted.copies)
        self.memory = self.counted
        sources = trainer.datamodule.sources  # type: ignore[attr-defined]
        full_batch = max(max(1, source.sampler.batch_size // self.world) for source in sources.values())
        shares = (min(0.5, SMALL / 2 / full_batch), min(1.0, SMALL / full_batch))
        for source in sources.values():
            source.sampler = SmallBatchesFirst(source.sampler, world=self.world, shares=shares)
        self.rows = sum(source.sampler.rows for source in sources.values())
        self.in_batch = [name for name, objective in pl_module.trained.items() if objective.in_batch]
        self._watch(pl_module)

    def _watch(self, module: Any) -> None:
        """Counts each storage that autograd keeps once, but for parameters and buffers, which are counted already."""
        original = module.training_step
        known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            place = tensor.untyped_storage().data_ptr()
            if place not in known:
                self._kept[place] = tensor.untyped_storage().nbytes()
            return tensor

        def training_step(batch: Any, batch_idx: int) -> Any:  # Lightning looks at the names
            if self.done >= 2:
                return original(batch, batch_idx)
            self._kept = {}
            with saved_tensors_hooks(pack, lambda tensor: tensor):
                return original(batch, batch_idx)

        module.training_step = training_step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.done == 2:
            restart_peak()
        self._start = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        self.done += 1
        if self.done <= 2:
            self.points.append((sum(map(len, parts)), sum(self._kept.values())))
            if self.done == 2 or self.points[0][0] >= self.rows:
                self._decide(trainer)
        else:
            self.seconds.append(now - self._start)
            self.batch_bytes = sum(tensor_bytes(part) for part in parts)
            self.peak = max(self.peak, peak_bytes() - self._before)
        if (self.seconds and now > self.until) or len(self.seconds) >= STEPS:
            trainer.should_stop = True

    def _decide(self, trainer: L.Trainer) -> None:
        kept = scale_activations(self.points, self.rows, bool(self.in_batch))
        small = self.counted.fixed + scale_activations(self.points, self.points[-1][0], False)
        beyond = max(0, peak_bytes() - self._before - small)
        self.memory = replace(self.counted, activations=kept, libraries=beyond)
        if not self.allowed(self.memory):
            trainer.should_stop = True

    def facts(self) -> dict[str, Any]:
        return {
            "memory": self.memory.__dict__,
            "base": self._before,
            "rows": self.rows,
            "points": self.points,
            "seconds": self.seconds,
            "batch_bytes": self.batch_bytes,
            "peak": self.peak,
            "in_batch": self.in_batch,
        }


def tensor_bytes(record: Any) -> int:
    """Of all tensors in a record of vlp/structures.py, and in the records within it."""
    if isinstance(record, torch.Tensor):
        return record.numel() * record.element_size()
    if isinstance(record, (list, tuple)):
        return sum(map(tensor_bytes, record))
    return sum(map(tensor_bytes, vars(record).values())) if hasattr(record, "__dataclass_fields__") else 0


def resident_bytes() -> int:
    """Bytes in use by this process now: of the GPU where there is one, else of the machine."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else _status("VmRSS")


def peak_bytes() -> int:
    """The most bytes in use since `restart_peak`."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else _status("VmHWM")


def restart_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # not allowed in some containers: the peak is then that of the whole process, never too low
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
