"""Config → parts of a run: data, model, objectives, tasks, each built by its `_target_` from plain values."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from vlp.build import build
from vlp.checkpoints.agreement import (
    check_foreign_tokenizer,
    check_function,
    check_labels,
    has_common_embeddings,
    tokenizer_of_checkpoint,
)
from vlp.checkpoints.checkpoint import Checkpoint
from vlp.checkpoints.load import load_weights, read
from vlp.data.datamodule import DataModule
from vlp.data.mixture import Mixture
from vlp.data.parts import build_data, build_tokenizer
from vlp.launch.config.layout import accelerator, tasks
from vlp.launch.runs.folder import read_frozen_config
from vlp.models.lora import add_adapters
from vlp.system import ranks
from vlp.system.errors import UserError
from vlp.training.batch_norm import synchronize_batch_norms
from vlp.training.callbacks.teachers import Teachers
from vlp.training.lifecycle.nonfinite import NonFiniteGuard
from vlp.training.loggers import JsonLines
from vlp.training.module import VisionLanguageModule
from vlp.training.open_settings import fill_open_settings
from vlp.training.portable_config import set_vocabulary_size
from vlp.training.teachers import load_teachers


def silence_known_warnings() -> None:
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
class RunParts:
    """teachers: the callback that gives the data what the run's teachers make of them; None = it has none."""

    data: DataModule | Mixture
    module: VisionLanguageModule
    teachers: Teachers | None = None


def assemble(
    config: dict[str, Any],
    folder: Path,
    stored: dict[str, Any] | None = None,
    resumed: Mapping[str, Any] | None = None,
) -> RunParts:
    """Everything of a run but the trainer. With `checkpoint`, the weights are those of that file, every key matched, and so is the
    tokenizer that they were trained with, if any part that reads its ids is taken.

    stored: the config as checkpoints keep it; None = as it is.  resumed: the content of the checkpoint that the run continues from.
    """
    source = f"checkpoint={config['checkpoint']}"
    start = read(Path(config["checkpoint"]), {}) if config["checkpoint"] else None
    tokenizer = build_tokenizer(config)
    if resumed and resumed.get("tokenizer_json"):  # the data, which it would be trained on, may lie elsewhere now
        tokenizer = tokenizer_of_checkpoint(resumed["tokenizer_json"], tokenizer, source="the run that is resumed")
    elif start and start.tokenizer_json and _takes_texts(start, config):
        tokenizer = tokenizer_of_checkpoint(start.tokenizer_json, tokenizer, source=source)
    data = build_data(config, tokenizer=tokenizer)
    data.issues_path = folder / "data_issues.jsonl"
    for part in ("model", "objectives", "tasks"):
        set_vocabulary_size(config.get(part), tokenizer.size)
    model = build(config["model"])
    teachers = load_teachers(config.get("teachers") or {})
    for content in (config, stored or config):
        for part in ("objectives", "tasks"):
            fill_open_settings(content.get(part) or {}, model, data, teachers)
    module = VisionLanguageModule(
        model=model,
        objectives={name: build(node) for name, node in config.get("objectives", {}).items() if node},
        tasks={name: build(node) for name, node in tasks(config).items()},
        optimizer=build(config["optimizer"]),
        schedule=build(config["schedule"]),
        freeze=config["freeze"],
        gradient_cache=config["gradient_cache"],
        momentum=config["momentum"],
        loss_weights=build(config["loss_weights"]) if config.get("loss_weights") else None,
        guard=NonFiniteGuard(
            policy=config["nonfinite"], limit=config["nonfinite_limit"], folder=folder / "checkpoints"
        ),
        seed=config["seed"],
        config=stored or config,
    )
    if config.get("trainer", {}).get("sync_batchnorm"):
        synchronize_batch_norms(module, on_gpu=accelerator(config, torch.cuda.device_count()) == "gpu")
    if start is not None:
        _load_start(start, config, module, tokenizer, source=source)
    if config.get("lora"):
        if module.momentum is not None:
            raise UserError("lora and momentum: the copy would follow frozen weights; set momentum=null or lora=null")
        add_adapters(model, **config["lora"])
    if config["compile"]:
        for part in (model.vision, model.text):
            if part is not None:
                part.compile(dynamic=True)
    callback = Teachers(teachers, folder=config.get("teacher_folder")) if teachers else None
    return RunParts(data=data, module=module, teachers=callback)


def _takes_texts(start: Checkpoint, config: Mapping[str, Any]) -> bool:
    """Whether the run takes parts of the checkpoint that read token ids; in part, none of another class is taken."""
    reads_ids = bool({"text", "decoder"} & {key.partition(".")[0] for key in start.state})
    return reads_ids and (config.get("checkpoint_strict", True) or has_common_embeddings(start, config["model"]))


def _load_start(
    start: Checkpoint, config: dict[str, Any], module: VisionLanguageModule, tokenizer: Any, *, source: str
) -> None:
    """The checkpoint's weights into the run's model and heads; rank 0 prints what was not loaded.  Raises UserError for what does
    not fit."""
    heads, strict = dict(module.objectives.items()), config.get("checkpoint_strict", True)
    if start.tokenizer_json is None and has_common_embeddings(start, config["model"]):
        check_foreign_tokenizer(start, module.model, tokenizer, source=source)
    notes = [f"{source} {note}" for note in check_function(start, config["model"], source=source, strict=strict)]
    check_labels(start, heads, source=source)
    notes += load_weights(Path(config["checkpoint"]), module.model, heads, module.momentum, start, strict=strict)
    for note in notes if ranks.rank() == 0 else ():
        print(f"note: {note}", file=sys.stderr, flush=True)


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(values as they are used, values fit to be stored: secrets stay names of environment variables)."""
    frozen = read_frozen_config(path)
    used, stored = (OmegaConf.to_container(frozen, resolve=resolve) for resolve in (True, False))
    return used, stored  # type: ignore[return-value]


def build_loggers(config: dict[str, Any], folder: Path) -> list[Logger]:
    return [JsonLines(folder=folder)] + [build(node) for node in config.get("loggers", {}).values() if node]
