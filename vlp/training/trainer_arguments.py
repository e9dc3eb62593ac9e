"""Arguments of Lightning's Trainer from the config's `trainer`, without those that vlp applies itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from vlp.build import build
from vlp.system.errors import UserError
from vlp.training.determinism import with_determinism

APPLIED_BY_VLP = {"max_time", "sync_batchnorm"}  # by RunTimer, and by vlp/training/batch_norm.py
PROFILERS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


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
