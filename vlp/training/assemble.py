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
from torch import Tensor, nn

from vlp.build import build
from vlp.checkpoints.keys import load_strictly
from vlp.data.base import DataModule
from vlp.data.mixture import Mixture
from vlp.launch.run_folder import read
from vlp.predictor import load
from vlp.system.errors import UserError
from vlp.training.loggers import JsonLines
from vlp.training.module import VisionLanguageModule, set_vocabulary_size
from vlp.training.nonfinite import Guard


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
        ".*sync_dist=True.*",  # figures of a measurement are equal on every rank
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
        guard=Guard(policy=config["nonfinite"], limit=config["nonfinite_limit"], folder=folder / "checkpoints"),
        seed=config["seed"],
        config=stored or config,
    )
    if config["checkpoint"]:
        start_from(module, Path(config["checkpoint"]))
    if config["compile"]:
        for part in (model.vision, model.text):
            if part is not None:
                part.compile(dynamic=True)
    return Parts(data=data, module=module)


def check_monitor(config: dict[str, Any]) -> None:
    parts = config["monitor"].split("/")
    mixed = config["data"].get("sources")
    sources = [config["data"]["name"]] if mixed is None else [name for name, node in mixed.items() if node]
    if len(parts) == 4 and parts[1] not in sources:
        parts[1] = sources[0]
        raise UserError(
            f"monitor={config['monitor']} is not a figure of this run, whose sources are {', '.join(sources)}: set one of "
            f"theirs, for example monitor={'/'.join(parts)}"
        )
    if len(parts) < 4 or parts[0] != "val" or parts[2] not in config["tasks"]:
        raise UserError(
            f"monitor={config['monitor']} is not a figure of this run, whose tasks are {', '.join(config['tasks'])}: "
            "set monitor=val/<source>/<task>/<metric>"
        )


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values as they are used, values fit to be stored: secrets stay names of environment variables)."""
    frozen = read(path)
    used, stored = (OmegaConf.to_container(frozen, resolve=resolve) for resolve in (True, False))
    return used, stored  # type: ignore[return-value]


def start_from(module: VisionLanguageModule, path: Path) -> None:
    """Weights of any checkpoint that vlp.load reads; each part of the model (vision, text, projection, …) must be of the file's
    architecture, key for key, but for the image size, to which position embeddings are resized. Heads and queues that the run
    and the file have in common come along, and the momentum copy, where the run has one; what does not, is said.
    """
    stored = load(path)
    sizes = [getattr(model.vision, "image_size", None) for model in (module.model, stored.model)]
    try:
        if None not in sizes and sizes[0] != sizes[1] and hasattr(stored.model.vision, "positions"):
            stored = load(path, image_size=sizes[0])
        _start_parts(module.model, stored.model, path)
    except ValueError as error:
        raise UserError(
            f"checkpoint={path} is of another architecture than model=…: {error}; choose the model=… that it was trained with"
        ) from error
    for name, objective in module.objectives.items():
        if name in stored.objectives:
            _start_head(name, objective, stored.objectives[name].state_dict(), path)
        elif any(True for _ in objective.parameters()):
            rank_zero_info(f"checkpoint={path} has no head for {name}, which starts anew")
    unused = [name for name in stored.objectives if name not in module.objectives]
    if unused:
        rank_zero_info(f"checkpoint={path}: the heads of {', '.join(unused)} are not used by this run")
    if module.momentum is not None:
        module.momentum.restart()
        if stored.momentum is not None:
            _start_parts(module.momentum.model, stored.momentum.model, path)


def _start_parts(model: nn.Module, stored: nn.Module, path: Path) -> None:
    own, others = dict(model.named_children()), dict(stored.named_children())
    if own.keys() == others.keys():  # at once, as parts may share layers
        return load_strictly(model, stored.state_dict())
    for name in own.keys() & others.keys():
        load_strictly(own[name], others[name].state_dict())
    for name in own.keys() - others.keys():
        rank_zero_info(f"checkpoint={path} has no {name}, which starts anew")
    for name in others.keys() - own.keys():
        rank_zero_info(f"checkpoint={path}: its {name} is not used by this run")


def _start_head(name: str, objective: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    for key, value in state.items():
        if key.endswith("_queue.id"):
            value.fill_(-1)  # ids of another run's data say nothing about this one's
    try:
        load_strictly(objective, state)
    except ValueError as error:
        rank_zero_info(f"checkpoint={path}: {name} starts anew, as {error}")


def build_loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    return [JsonLines(folder=folder)] + [build(node) for node in config.get("loggers", {}).values() if node]
