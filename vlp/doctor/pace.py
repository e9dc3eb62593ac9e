"""How long the run will take: a few real steps and validation batches, timed and scaled up."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from vlp.doctor.arithmetic import total_steps
from vlp.doctor.finding import Finding, error, fine, warning
from vlp.system.units import readable_duration
from vlp.training.length import ENDLESS

DAYS = 7 * 86_400  # a run longer than this is worth a second look


def finish(config: dict[str, Any], facts: dict[str, Any]) -> Finding:
    """facts: {"seconds": of each full step, "per_epoch": steps, "val_seconds": of a batch, "val_batches"}."""
    steps = total_steps(config, facts["per_epoch"])
    if steps == ENDLESS:
        fix = f"vlp train trainer.max_steps={10 * max(1, facts['per_epoch'])}"
        return error("time.finish", "trainer.max_epochs=-1 has no end, which the schedule needs", fix)
    one, whole = typical(facts["seconds"]), facts["val_seconds"] * facts["val_batches"]
    limit = config["trainer"].get("limit_train_batches")
    per_epoch = min(facts["per_epoch"], limit) if isinstance(limit, int) else int(facts["per_epoch"] * (limit or 1))
    validations = max(1, round(steps * int(config["trainer"].get("accumulate_grad_batches") or 1) / max(1, per_epoch)))
    every = int(config["trainer"].get("check_val_every_n_epoch") or 1)
    parts = int(config["trainer"].get("accumulate_grad_batches") or 1)  # batches of a step; what was timed is one
    left = one * parts * steps + whole * (validations // every)
    told = (
        f"{readable_duration(one)} a step, {readable_duration(one * per_epoch)} an epoch of {per_epoch} steps, {readable_duration(whole)} a "
        f"validation: {readable_duration(left)} to finish ({len(facts['seconds'])} steps of one process alone were timed)"
    )
    if left > DAYS:
        return warning("time.finish", told, f"vlp train trainer.max_steps={max(1, int(DAYS / one))}")
    return fine("time.finish", told)


def typical(seconds: Sequence[float]) -> float:
    """The median, without the first where there are others: it warms up."""
    return median(seconds[1:] or seconds)
