"""What a config asks of the machine: processes, sources, batches, workers. Plain values only, no torch."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


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


def key(config: Config, source: str, setting: str) -> str:
    """The override that sets a source's setting."""
    return f"data.{setting}" if config["data"].get("sources") is None else f"data.sources.{source}.{setting}"


def batch_sizes(config: Config) -> dict[str, int]:
    """Training samples a step of all processes together, by source."""
    whole, ratios = config["data"].get("batch_size"), config["data"].get("ratios")
    if config["data"].get("sources") is not None and whole and ratios:
        return {name: round(whole * ratio / sum(ratios.values())) for name, ratio in ratios.items()}
    return {name: int(node.get("batch_size") or 256) for name, node in sources(config).items()}


def workers(config: Config) -> int:
    """Loading processes of one training process, of all sources."""
    return sum(int(node.get("num_workers") or 0) for node in sources(config).values())
