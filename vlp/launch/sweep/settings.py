"""The `sweep` part of a config, checked before a folder appears, and the place that its jobs run at."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from vlp.launch.config.errors import ConfigError, join_names
from vlp.system.suggest import nearest_option

EXTRAS = {"slurm": ("submitit", "slurm"), "ray": ("ray", "ray"), "optuna": ("optuna", "sweep")}  # module, extra of ours
DEFAULTS: dict[str, Any] = {"jobs": 1, "devices": None, "time_limit_min": None, "grace_period_s": 60}
DEFAULTS |= {"executor": "local", "metric": None}
SLURM = {"cluster": "slurm", "partition": None, "time_limit_min": 60, "gpus": None, "cpus": None, "mem_gb": None}
SLURM |= {"requeues": 100, "more": None}
RAY = {"address": None, "cpus": 1, "gpus": 0}


def check_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings, with defaults where a conf/ of one's own leaves them out. Raises ConfigError for what cannot be."""
    settings = DEFAULTS | given
    settings["slurm"] = SLURM | (given.get("slurm") or {})
    settings["ray"] = RAY | (given.get("ray") or {})
    places = ("local", "slurm", "ray")
    if settings["executor"] not in places:
        hint = nearest_option(str(settings["executor"]), places) or f" there are {join_names(places)}"
        raise ConfigError(f"sweep.executor={settings['executor']}: no such executor:{hint}")
    for key in ("jobs", "time_limit_min", "grace_period_s"):
        value = settings[key]
        if (value is not None or key == "jobs") and (type(value) not in (int, float) or value <= 0):
            raise ConfigError(f"sweep.{key}={value}: expects a number above 0")
    devices = settings["devices"]
    if devices is not None:
        if not isinstance(devices, list) or not devices:
            raise ConfigError(f"sweep.devices={devices}: expects a list such as [0,1], or ['0,1','2,3'] for two a job")
        settings["devices"] = devices = [str(device) for device in devices]
        if settings["executor"] != "local":
            raise ConfigError(
                f"sweep.devices is for sweep.executor=local; {settings['executor']} chooses the devices itself: remove it"
            )
        if len(set(devices)) < len(devices):
            raise ConfigError(f"sweep.devices={devices}: a device is named twice")
        if settings["jobs"] > len(devices):
            raise ConfigError(
                f"sweep.jobs={settings['jobs']} but sweep.devices names {len(devices)}, one slot each: "
                f"set sweep.jobs={len(devices)} or name more"
            )
    if settings["executor"] != "local":
        require_package(settings["executor"], f"sweep.executor={settings['executor']}")
    if settings["executor"] == "slurm" and settings["slurm"]["cluster"] not in ("slurm", "local"):
        raise ConfigError(f"sweep.slurm.cluster={settings['slurm']['cluster']}: there are slurm, local")
    if settings["executor"] == "slurm" and settings["slurm"]["cluster"] == "slurm":
        import shutil

        if shutil.which("sbatch") is None:
            raise ConfigError(
                "sweep.executor=slurm: there is no sbatch on this machine; start the sweep on a login node of the cluster"
            )
    if "trials" in settings:
        require_package("optuna", "sweep=optuna")
        from vlp.launch.sweep.pruning import DEFAULTS as OF_PRUNING
        from vlp.launch.sweep.search import check_search

        settings = OF_PRUNING | settings
        check_search(settings)
    return settings


def require_package(what: str, place: str) -> None:
    module, extra = EXTRAS[what]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{place} needs {error.name}: pip install 'vlp[{extra}]'") from error


def build_executor(command: str, settings: dict[str, Any], folder: Path) -> Any:
    if settings["executor"] == "slurm":
        from vlp.launch.sweep.executors.slurm import SlurmExecutor

        return SlurmExecutor(command, settings, folder)
    if settings["executor"] == "ray":
        from vlp.launch.sweep.executors.ray import RayExecutor

        return RayExecutor(command, settings)
    from vlp.launch.sweep.executors.local import LocalExecutor

    return LocalExecutor(command, settings)
