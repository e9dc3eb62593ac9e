"""Where a config holds what: processes, sources, batches, workers, the monitor, the length. Plain values only, no torch.

Whoever needs one of these facts asks here, so that a key of the config is named in one place.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
ENDLESS = 2**62  # steps of a training that something else stops


def accelerator(config: Config, gpus: int) -> str:
    """ "cpu" or "gpu"; `auto` takes GPUs where there are some."""
    asked = str(config["trainer"].get("accelerator", "auto"))
    if asked == "auto":
        return "gpu" if gpus else "cpu"
    return "gpu" if asked in ("gpu", "cuda") else asked


def local_processes(config: Config, gpus: int) -> int:
    """Processes on this machine, as Lightning reads `devices`: a number, a list, a text of numbers, -1 or auto."""
    devices = config["trainer"].get("devices", "auto")
    everything = gpus if accelerator(config, gpus) == "gpu" else 1
    if devices in ("auto", -1, "-1", None):
        return max(1, everything)
    if isinstance(devices, str):
        numbers = [word for word in devices.split(",") if word.strip()]
        return int(devices) if len(numbers) == 1 and devices.strip().isdigit() else len(numbers)
    return len(devices) if isinstance(devices, (list, tuple)) else int(devices)


def processes(config: Config, gpus: int) -> int:
    return local_processes(config, gpus) * int(config["trainer"].get("num_nodes") or 1)


def sources(config: Config) -> dict[str, Config]:
    """The data sources by name: one, or those of a mixture."""
    mixed = config["data"].get("sources")
    if mixed is None:
        return {str(config["data"]["name"]): config["data"]}
    return {name: node for name, node in mixed.items() if node}


def source_key(config: Config, source: str, setting: str) -> str:
    """The override that sets a source's setting."""
    return f"data.{setting}" if config["data"].get("sources") is None else f"data.sources.{source}.{setting}"


def batch_sizes(config: Config) -> dict[str, int]:
    """Training samples a step of all processes together, by source; with a temperature, which needs the data, equal ones."""
    batch_size, ratios = config["data"].get("batch_size"), config["data"].get("ratios")
    if config["data"].get("sources") is not None and batch_size and config["data"].get("temperature") is not None:
        names = list(sources(config))
        return {name: max(1, int(batch_size) // len(names)) for name in names}
    if config["data"].get("sources") is not None and batch_size and ratios:
        return {name: round(batch_size * ratio / sum(ratios.values())) for name, ratio in ratios.items()}
    return {name: int(node.get("batch_size") or 256) for name, node in sources(config).items()}


def workers(config: Config) -> int:
    """Loading processes of one training process, of all sources."""
    return sum(int(node.get("num_workers") or 0) for node in sources(config).values())


def tasks(config: Config) -> dict[str, Config]:
    return {name: node for name, node in (config.get("tasks") or {}).items() if node}


def accumulated_batches(config: Config) -> int:
    """Batches of one optimiser step."""
    return int(config["trainer"].get("accumulate_grad_batches") or 1)


def monitored_source(config: Config) -> str | None:
    parts = str(config["monitor"]).split("/")
    return parts[1] if len(parts) > 1 else None


def wrong_monitor(config: Config) -> str | None:
    """The sentence that says why `monitor` is no figure of this run; None where it may be one."""
    name, known = str(config["monitor"]), list(sources(config))
    parts = name.split("/")
    if len(parts) == 4 and parts[1] not in known:
        example = "/".join([parts[0], known[0], *parts[2:]])
        return (
            f"monitor={name} is not a figure of this run, whose sources are {', '.join(known)}: set one of "
            f"theirs, for example monitor={example}"
        )
    if len(parts) < 4 or parts[0] != "val" or parts[2] not in tasks(config):
        return (
            f"monitor={name} is not a figure of this run, whose tasks are {', '.join(tasks(config)) or 'none'}: "
            "set monitor=val/<source>/<task>/<metric>"
        )
    return None


def length_settings(config: Config) -> tuple[Any, ...]:
    """Those by which a user asks for a longer or a shorter run."""
    trainer = config.get("trainer") or {}
    return tuple(trainer.get(key) for key in ("max_epochs", "max_steps", "max_time"))


def total_steps(config: Config, per_epoch: int) -> int:
    """Optimiser steps of the run, of an epoch of so many batches; ENDLESS where nothing in the config ends it."""
    trainer = config["trainer"]
    return optimizer_steps(
        per_epoch,
        max_epochs=trainer.get("max_epochs"),
        max_steps=trainer.get("max_steps"),
        limit=trainer.get("limit_train_batches"),
        accumulated=accumulated_batches(config),
    )


def batches_per_epoch(batches: int, limit: int | float | None) -> int:
    """limit: Lightning's `limit_train_batches`, a number or a share."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def optimizer_steps(
    per_epoch: int, *, max_epochs: int | None, max_steps: int | None, limit: int | float | None, accumulated: int
) -> int:
    """Of a whole run, from plain values: Lightning's own estimate creates loaders too early.

    per_epoch: batches.  The others are Lightning's settings of the same names: -1 = no end by this, and neither of both
    given = 1000 epochs; limit: of batches of an epoch, a number or a share; accumulated: batches to a step.
    """
    per_epoch = batches_per_epoch(per_epoch, limit)
    most = ENDLESS if max_steps is None or max_steps < 0 else max_steps
    if max_epochs is None:
        max_epochs = 1000 if most == ENDLESS else -1
    steps = ENDLESS if max_epochs < 0 else max(1, -(-per_epoch // accumulated)) * max_epochs
    return min(steps, most)
