"""Numbers that are no setting of a run: out of range they would be ignored, or fail with a library's own error later.

The parts of a run check their own arguments; this is for the keys that no part of vlp takes as an argument, and for those that
are null in YAML, which therefore do not show their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlp.launch.config.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """low, high: included; high: None = no bound.  null: whether the key may be null.  integer: whether numbers with a fraction
    are refused."""

    low: int
    high: int | None = None
    null: bool = True
    integer: bool = True

    def contains(self, value: Any) -> bool:
        if value is None:
            return self.null
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return False
        return bool(value >= self.low and (self.high is None or value <= self.high))

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        bounds = f", {self.low} or more" if self.high is None else f" from {self.low} to {self.high}"
        return f"{kind}{bounds}{' (or null)' if self.null else ''}"


RANGES = {
    "seed": Range(0, 2**32 - 1, null=False),  # as NumPy's
    "gradient_cache": Range(1),
    "momentum": Range(0, 1, integer=False),
    "nonfinite_limit": Range(0, null=False),
    "trainer.max_epochs": Range(-1),
    "trainer.min_epochs": Range(0),
    "trainer.max_steps": Range(-1, null=False),
    "trainer.min_steps": Range(0),
    "trainer.num_nodes": Range(1, null=False),
    "trainer.accumulate_grad_batches": Range(1, null=False),
    "trainer.gradient_clip_val": Range(0, integer=False),
    "trainer.check_val_every_n_epoch": Range(1),
    "trainer.log_every_n_steps": Range(0),
    "trainer.num_sanity_val_steps": Range(-1),
    "model.text.key_value_heads": Range(1),
    "model.decoder.key_value_heads": Range(1),
    "tasks.detection.detections": Range(1, null=False),
    "tasks.detection.threshold": Range(0, 1, null=False, integer=False),
    "tasks.detection.nms": Range(0, 1, integer=False),
    "tasks.detection.pictures": Range(0, null=False),
    "tasks.segmentation.pictures": Range(0, null=False),
    "tasks.translation.beams": Range(1, null=False),
    "tasks.translation.max_length": Range(2, null=False),
    "tasks.translation.length_penalty": Range(0, null=False, integer=False),
    "tasks.translation.label_smoothing": Range(0, 1, null=False, integer=False),
    "tasks.translation.resamples": Range(0, null=False),
    "tasks.panoptic.threshold": Range(0, 1, null=False, integer=False),
    "tasks.panoptic.overlap": Range(0, 1, null=False, integer=False),
    "tasks.panoptic.pictures": Range(0, null=False),
}
WORDS = {"trainer.deterministic": (None, True, False, "auto", "warn")}  # Lightning takes any other word for true


def check_ranges(config: Mapping[str, Any]) -> None:
    """config: plain; what is an interpolation is checked once it is resolved.  Raises ConfigError."""
    for key, accepted in RANGES.items():
        for value in _values(config, key):
            if not accepted.contains(value):
                raise ConfigError(f"{key}={'null' if value is None else value}: expects {accepted}")
    for key, words in WORDS.items():
        for value in _values(config, key):
            if value not in words:
                raise ConfigError(f"{key}={value}: choose true, false, auto or warn")


def _values(config: Mapping[str, Any], key: str) -> list[Any]:
    """The value of a key; none where the config lacks it, or has an interpolation."""
    *parents, name = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or name not in node or (isinstance(node[name], str) and "${" in node[name]):
        return []
    return [node[name]]
