"""Whether the figure that a sweep is about can be one of its jobs' results, as far as the config says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlp.launch.config.errors import ConfigError, join_names
from vlp.launch.config.layout import sources, tasks
from vlp.system.suggest import nearest_option

COSTS = ("seconds", "train_seconds", "this_process_train_seconds", "samples_seen", "steps")


def wrong_metric(metric: str, config: dict[str, Any]) -> str | None:
    """The sentence that says why a job of this config has no such figure; None where it may have one."""
    if not tasks(config) or not isinstance(config.get("data"), dict) or not {"name", "sources"} & set(config["data"]):
        return None
    parts, known = metric.split("/"), list(sources(config))
    if len(parts) == 1:
        return None if metric in COSTS else f"results have val/… and test/… figures, and {join_names(COSTS)}"
    splits = [str(config["split"])] if "split" in config else ["val", "test"]
    if parts[0] not in splits or len(parts) != 4:
        return f"results have figures {' and '.join(f'{split}/<source>/<task>/<metric>' for split in splits)}"
    if parts[1] not in known:
        return f"there is no source {parts[1]}:{nearest_option(parts[1], known) or f' there are {join_names(known)}'}"
    measured = [*tasks(config), *(["ridge_baseline"] if parts[0] == "test" else [])]
    if parts[2] not in measured:
        return (
            f"there is no task {parts[2]}:{nearest_option(parts[2], measured) or f' there are {join_names(measured)}'}"
        )
    if parts[0] == "val" and "split" not in config and config["trainer"].get("limit_val_batches") == 0:
        return "nothing is validated with trainer.limit_val_batches=0"
    return None


def check_metric(metric: str | None, configs: Iterable[dict[str, Any]]) -> None:
    """Raises ConfigError where no job can have the figure."""
    if metric is None:
        return
    reasons = [wrong_metric(metric, config) for config in configs]
    if reasons and None not in reasons:
        raise ConfigError(f"sweep.metric={metric}: no job measures it: {reasons[0]}; no job was started")


def check_direction(metric: str | None, direction: str, config: dict[str, Any]) -> None:
    """Raises ConfigError where the run and the search disagree about whether more of the same figure is better."""
    mode = ((config.get("callbacks") or {}).get("checkpoint") or {}).get("mode")
    if metric == config.get("monitor") and mode in ("max", "min") and not direction.startswith(mode):
        raise ConfigError(
            f"sweep.direction={direction}, but callbacks.checkpoint.mode={mode} for the same figure {metric}: set both alike"
        )


def unmeasured(metric: str, figures: Iterable[str]) -> str:
    """The sentence about results that lack the figure."""
    names = sorted(name for name in figures if name.startswith(("val/", "test/")))
    if metric.startswith("val/") and not any(name.startswith("val/") for name in names):
        return (
            f"{metric} was not measured, as no validation took place: raise trainer.max_steps or max_epochs, or validate more "
            "often with trainer.val_check_interval"
        )
    return f"{metric} was not measured: set sweep.metric to one of {join_names(names)}"
