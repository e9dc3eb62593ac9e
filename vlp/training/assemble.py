"""Config → parts of a run: tokenizer, transforms, data, model, objectives, tasks. The only place that knows the
config's layout; every part is built by its `_target_` from plain values."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from omegaconf import OmegaConf

from vlp.build import build
from vlp.checkpoints.keys import load_strictly
from vlp.data.base import DataModule
from vlp.data.mixture import Mixture
from vlp.launch.run_folder import read
from vlp.predictor import load
from vlp.training.loggers import JsonLines
from vlp.training.module import VisionLanguageModule, set_vocabulary_size


def quiet() -> None:
    """Lightning's tips, and its warnings about choices that vlp makes on purpose, are silenced."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*Trying to infer the `batch_size`.*",
        ".*The number of training batches.*",
        ".*treespec.*",
        ".*in eval mode at the start of training.*",
        ".*dataloader is not resumable.*",
        ".*There is a wandb run already in progress.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", pattern)


@dataclass
class Parts:
    data: DataModule | Mixture
    module: VisionLanguageModule


def assemble(config: dict[str, Any], folder: Path, stored: dict[str, Any] | None = None) -> Parts:
    """Everything of a run but the trainer. With `checkpoint`, the weights are those of that file, every key matched.

    stored: the config as checkpoints keep it; None = as it is.
    """
    tokenizer = build(config["tokenizer"])
    transform = {split: build(node) for split, node in config["transform"].items()}
    data = build(config["data"], tokenizer=tokenizer, transform=transform, seed=config["seed"])
    data.issues_path = folder / "data_issues.jsonl"
    for part in ("model", "objectives", "tasks"):
        set_vocabulary_size(config.get(part), tokenizer.size)
    model = build(config["model"])
    module = VisionLanguageModule(
        model=model,
        objectives={name: build(node) for name, node in config.get("objectives", {}).items() if node},
        tasks={name: build(node) for name, node in config["tasks"].items() if node},
        optimizer=build(config["optimizer"]),
        schedule=build(config["schedule"]),
        freeze=config["freeze"],
        gradient_cache=config["gradient_cache"],
        momentum=config["momentum"],
        seed=config["seed"],
        config=stored or config,
    )
    if config["checkpoint"]:
        start_from(module, Path(config["checkpoint"]))
    if config["compile"]:
        for tower in (model.vision, model.text):
            tower.compile(dynamic=True)
    return Parts(data=data, module=module)


def check_monitor(config: dict[str, Any]) -> None:
    parts = config["monitor"].split("/")
    mixed = config["data"].get("sources")
    sources = [config["data"]["name"]] if mixed is None else [name for name, node in mixed.items() if node]
    if len(parts) == 4 and parts[1] not in sources:
        parts[1] = sources[0]
        raise ValueError(
            f"monitor={config['monitor']} is not a figure of this run, whose sources are {', '.join(sources)}: set one of "
            f"theirs, for example monitor={'/'.join(parts)}"
        )
    if len(parts) < 4 or parts[0] != "val" or parts[2] not in config["tasks"]:
        raise ValueError(
            f"monitor={config['monitor']} is not a figure of this run, whose tasks are {', '.join(config['tasks'])}: "
            "set monitor=val/<source>/<task>/<metric>"
        )


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values as they are used, values fit to be stored: secrets stay names of environment variables)."""
    frozen = read(path)
    used, stored = (OmegaConf.to_container(frozen, resolve=resolve) for resolve in (True, False))
    return used, stored  # type: ignore[return-value]


def start_from(module: VisionLanguageModule, path: Path) -> None:
    """Weights of any checkpoint that vlp.load reads; the model must be of this architecture, key for key. Heads and queues
    of objectives that the run and the file have in common come along, and the momentum copy, where the run has one.
    """
    stored = load(path)
    try:
        load_strictly(module.model, stored.model.state_dict())
        for name, objective in stored.objectives.items():
            if name in module.objectives:
                load_strictly(module.objectives[name], objective.state_dict())
    except ValueError as error:
        raise ValueError(
            f"checkpoint={path} is of another architecture than model=…: {error}; choose the model=… that it was trained with"
        ) from error
    new = [
        name
        for name, objective in module.objectives.items()
        if name not in stored.objectives and list(objective.parameters())
    ]
    left = [name for name in stored.objectives if name not in module.objectives]
    for names, what in ((new, "start anew"), (left, "are not used by this run")):
        if names:
            rank_zero_info(f"checkpoint={path}: the heads of {', '.join(names)} {what}")
    if module.momentum is not None:
        module.momentum.restart()
        if stored.momentum is not None:
            load_strictly(module.momentum.model, stored.momentum.model.state_dict())
            for name, copy in stored.momentum.objectives.items():
                if name in module.momentum.objectives:
                    load_strictly(module.momentum.objectives[name], copy.state_dict())


def build_loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    return [JsonLines(folder=folder)] + [build(node) for node in config.get("loggers", {}).values() if node]
