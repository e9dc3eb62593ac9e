"""Arguments of Lightning's Trainer from the config's `trainer`, without those that vlp applies itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from vlp.build import build
from vlp.system.errors import UserError
from vlp.training.determinism import with_determinism

APPLIED_BY_VLP = {"max_time", "sync_batchnorm"}  # by RunTimer, and by vlp/training/batch_norm.py
REPLACES = {
    BatchSizeFinder: "data.batch_size",
    LearningRateFinder: "optimizer.lr",
    GradientAccumulationScheduler: "trainer.accumulate_grad_batches",
}
PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_trainer(arguments: dict[str, Any], **built: Any) -> L.Trainer:
    """The Trainer, with its refusals as UserError, among them of a setting that it replaced by another one."""
    try:
        trainer: L.Trainer = build(arguments, **built)
    except (UserError, MisconfigurationException):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, key in REPLACES.items():
            if isinstance(callback, kind):
                raise UserError(
                    f"callbacks: {kind.__name__} trains with another {key} than config.yaml records: leave it out, and set {key}"
                )
    precision = str(arguments.get("precision") or "32-true")
    if precision in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise UserError(
            f"trainer.precision={precision} needs a GPU, as PyTorch has no float16 autocast for CPUs: choose bf16-mixed or 32-true"
        )
    return trainer


def trainer_arguments(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """folder: of the run, which gets the profiler's report; Lightning prints it to a logger that is silent here."""
    arguments = {key: value for key, value in with_determinism(settings).items() if key not in APPLIED_BY_VLP}
    profiler = arguments.get("profiler")
    if isinstance(profiler, str):
        if profiler not in PROFILERS:
            raise UserError(f"trainer.profiler={profiler}: choose from {', '.join(PROFILERS)}")
        arguments["profiler"] = PROFILERS[profiler](dirpath=folder, filename="profile")  # type: ignore[call-arg]
    arguments["plugins"] = build(arguments.get("plugins") or [])
    return arguments
