"""What ends training before its last step (early stopping, a time limit), and which setting lifts it.

A checkpoint keeps that training had ended, so that a run which is killed afterwards does not train beyond its end. Resumed
with settings that lift the end, the run continues; resumed with more epochs alone, it would train nothing, which is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer


@dataclass(frozen=True)
class Ending:
    """reason: a clause.  key: of the config; changing it, or what is below it, lifts the end.  advice: how."""

    reason: str
    key: str
    advice: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def find_ending(trainer: L.Trainer, config: Mapping[str, Any], figures: Mapping[str, Any]) -> Ending | None:
    """The first callback whose condition to stop is met.  figures: of the last validation."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            reason, setting = _early_stopping(callback, figures)
            if reason:
                key = _config_key(callback, config)
                return Ending(
                    f"early stopping ({key}): {reason}", key, f"set {key}.{setting}, or {key}=null to train without it"
                )
        if isinstance(callback, Timer):
            left = callback.time_remaining()
            if left is not None and left <= 0:
                seconds = callback.time_elapsed()
                return Ending(
                    f"trainer.max_time: {seconds:.0f} seconds of training are used up", "trainer.max_time",
                    "set trainer.max_time to more, or to null",
                )  # fmt: skip
    return None


def _early_stopping(callback: EarlyStopping, figures: Mapping[str, Any]) -> tuple[str, str]:
    """(reason, setting that lifts it); empty where no condition is met."""
    name = callback.monitor
    if callback.wait_count >= callback.patience:
        return (
            f"{name} did not improve in {callback.wait_count} validations",
            f"patience={callback.wait_count + 1} or more",
        )
    if name not in figures:
        return "", ""
    value = torch.as_tensor(float(figures[name]))
    if callback.check_finite and not value.isfinite():
        return f"{name} is {float(value)}", "check_finite=false"
    if callback.stopping_threshold is not None and callback.monitor_op(value, callback.stopping_threshold):
        return f"{name} reached stopping_threshold={callback.stopping_threshold}", "stopping_threshold"
    if callback.divergence_threshold is not None and callback.monitor_op(-value, -callback.divergence_threshold):
        return f"{name} passed divergence_threshold={callback.divergence_threshold}", "divergence_threshold"
    return "", ""


def _config_key(callback: Callback, config: Mapping[str, Any]) -> str:
    for name, node in (config.get("callbacks") or {}).items():
        if isinstance(node, dict) and str(node.get("_target_", "")).rpartition(".")[2] == type(callback).__name__:
            return f"callbacks.{name}"
    return "callbacks"
