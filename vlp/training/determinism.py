"""The same command gives the same bits: what makes it so, what it depends on, and what a run records of it.

On a CPU some backward passes add up what several threads found in any order (advanced indexing is one), so two runs of one
command drift apart. PyTorch's deterministic algorithms add in one order and cost nothing there. On a GPU they are slower
and not available for every operation, so there they are a choice: trainer.deterministic=true.
"""

from __future__ import annotations

import sys
from typing import Any

import torch


def with_determinism(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer's settings with `deterministic: auto` replaced by true where it will run on a CPU, else false."""
    if trainer.get("deterministic") != "auto":
        return trainer
    accelerator = str(trainer.get("accelerator", "auto"))
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    return {**trainer, "deterministic": on_cpu}


def numeric_settings() -> dict[str, Any]:
    """What the last bits of a run depend on besides its config and versions, as results.json and checkpoints keep it."""
    on_gpu = torch.cuda.is_available()
    processor = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "processor": processor,
    }


def report_changed_numerics(before: dict[str, Any]) -> None:
    """Prints what of `numeric_settings` differs from that of the checkpoint which a run resumes from."""
    now = numeric_settings()
    changed = [f"{name} {before[name]}, now {value}" for name, value in now.items() if before.get(name, value) != value]
    if changed:
        print(
            f"warning: the checkpoint was written with {'; '.join(changed)}: the resumed run is not bit-equal to one that "
            "was never stopped",
            file=sys.stderr,
            flush=True,
        )
