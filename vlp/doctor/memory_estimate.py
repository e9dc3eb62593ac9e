"""How much memory a training process needs: what can be counted, and activations scaled up from two small steps.

    fixed       = parameters + gradients + optimiser state + buffers (queues) + momentum and averaged copies
    activations = what autograd keeps for the backward pass and 30 % more, a line through two small batches, at the full batch

The estimate is compared with the peak of a real full step, see `MemoryEstimate`. How far off it was is reported in
tests/doctor/test_memory_estimate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlp.doctor.finding import Finding, error, fine_finding, warning
from vlp.system.units import readable_bytes

STATES = {
    "AdamW": 2,
    "Adam": 2,
    "Muon": 1,
    "SGD": 1,
    "CombinedOptimizer": 2,
}  # values of an optimiser for each parameter
TRANSIENT = 0.3  # of the kept activations: gradients of activations and scratch space of the backward pass
TOLERANCE = 0.5  # a real peak further from the estimate than this share is reported


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process, apart from what Python and its libraries take."""

    parameters: int
    gradients: int
    optimizer: int
    copies: int  # momentum, averages, queues and other buffers
    activations: int = 0
    libraries: int = 0  # what a small step took beyond all this: code that is loaded and compiled at the first step

    @property
    def fixed(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.copies

    @property
    def total(self) -> int:
        return self.fixed + self.activations + self.libraries

    def summary(self, *, measured: bool) -> str:
        """measured: whether steps measured the last two parts."""
        names = ("parameters", "gradients", "optimizer", "copies", *(("activations", "libraries") if measured else ()))
        counted = " + ".join(f"{name} {readable_bytes(getattr(self, name))}" for name in names)
        return counted if measured else f"{counted}; activations were not measured"


def count_memory(module: Any, config: dict[str, Any]) -> MemoryEstimate:
    """Of a VisionLanguageModule, which may be on the meta device."""
    trained = [p for p in module.parameters() if p.requires_grad]
    momentum = [] if module.momentum is None else list(module.momentum.parameters())
    slow = {id(p) for p in momentum}
    own = [p for p in module.parameters() if id(p) not in slow]
    gradients, buffers = _bytes(trained), _bytes(list(module.buffers()))
    average = _bytes(own) if (config.get("callbacks") or {}).get("ema") else 0
    return MemoryEstimate(
        parameters=_bytes(own),
        gradients=gradients,
        optimizer=gradients * STATES.get(str(config["optimizer"].get("_target_", "")).rpartition(".")[2], 2),
        copies=_bytes(momentum) + buffers + average,
    )


def _bytes(tensors: Sequence[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def scale_activations(points: Sequence[tuple[int, int]], rows: int, in_batch: bool) -> int:
    """Activations of `rows` samples from (samples, bytes) of small steps: a line, and the similarities of all pairs."""
    (few, low), (many, high) = points[0], points[-1]
    slope = (high - low) / (many - few) if many > few else high / many
    pairs = 6 * 4 * rows * rows if in_batch else 0  # logits, mask and softmax of both directions, as floats
    return int((1 + TRANSIENT) * max(high, low + slope * (rows - few)) + pairs)


def check_memory(facts: dict[str, Any], free: int, local: int, device: str, fix: str) -> Finding:
    """facts: {"memory": fields of MemoryEstimate} and, where a small step was taken, "base": bytes before the model.
    local: processes that share `free`."""
    needed = MemoryEstimate(**facts["memory"])
    each = needed.total + facts.get("base", 0)
    before = f" + what Python holds {readable_bytes(base)}" if (base := facts.get("base", 0)) else ""
    measured = "base" in facts
    summary = (
        f"a process needs {'about' if measured else 'at least'} {readable_bytes(each)} "
        f"({needed.summary(measured=measured)}{before}); "
        f"{readable_bytes(free)} of {device} are free"
    )
    if each * local > free:
        return error("memory.estimate", f"{summary} for {local} processes", fix)
    if each * local > 0.9 * free:
        return warning("memory.estimate", f"{summary} for {local} processes", fix)
    return fine_finding("memory.estimate", summary)


def check_step_peak(needed: MemoryEstimate, peak: int) -> Finding:
    """The estimate against the peak of a real step, both beyond what the process had before the model was built."""
    off = peak / max(1, needed.total) - 1
    summary = f"a real step took {readable_bytes(peak)}, {abs(off):.0%} {'more' if off > 0 else 'less'} than estimated"
    if off > TOLERANCE and peak > 500e6:
        return warning("memory.step", summary, "vlp train gradient_cache=32    # or a smaller data.batch_size")
    return fine_finding("memory.step", summary)


def smaller_batch_command(
    config: dict[str, Any], facts: dict[str, Any], free: int, local: int, in_batch: bool, setting: str, world: int
) -> str:
    """The command that makes the step fit.  setting: of the batch of all `world` processes."""
    needed = MemoryEstimate(**facts["memory"])
    room = free / local - needed.fixed - facts.get("base", 0)
    if room <= 0:
        return "vlp train model=clip_tiny    # the weights alone do not fit: a smaller model, or more devices"
    if needed.activations and in_batch and not config.get("gradient_cache"):
        rows = max(1, int(facts["rows"] * 0.7 * room / needed.activations))
        return f"vlp train gradient_cache={rows}"
    fitting_rows = int(facts["rows"] * 0.7 * room / max(1, needed.activations)) if needed.activations else 1
    return f"vlp train {setting}={world * max(1, fitting_rows)}"
