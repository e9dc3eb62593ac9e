"""The slow part, in a process of its own: `python -m vlp.doctor.probe CONFIG OUT SECONDS` reads the data, counts the model
and takes a few real steps. Each stage is a line of JSON in OUT, so what was found stays found when the time is up, the
memory runs out or a library crashes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHARE_OF_TIME = 0.75  # of what is left, for training steps; the rest is for validation
VAL_BATCHES = 2


def main(config_file: Path, out: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    facts: dict[str, Any] = {}

    def stage(name: str, function: Callable[[], dict[str, Any]]) -> bool:
        begin = time.monotonic()
        try:
            facts[name] = function()
        except Exception as problem:  # whatever a library raises: it is the finding
            facts[name] = {"problem": str(problem) or repr(problem), "kind": type(problem).__name__}
        facts[name]["took"] = round(time.monotonic() - begin, 2)
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"stage": name, **facts[name]}) + "\n")
        return "problem" not in facts[name]

    from vlp.doctor.data_checks import draw_stand_in, inspect_data
    from vlp.training.assemble import read_config, silence_known_warnings

    given, _ = read_config(config_file)
    instead = draw_stand_in(given | {"resume": None}, config_file.parent)
    config, scale = instead.config, instead.scale
    silence_known_warnings()
    if not stage("torch", torch_facts):
        return
    data = stage("data", lambda: inspect_data(config, scale)) and not facts["data"]["fatal"]
    model = stage("model", lambda: count_model(config))
    from vlp.launch.config.layout import local_processes, processes

    gpus = facts["torch"]["gpus"]
    room = facts["torch"]["free"] / local_processes(config, gpus)
    fits = model and facts["model"]["fixed"] < room
    if data and fits:
        stage(
            "steps",
            lambda: measure_steps(config, config_file.parent, processes(config, gpus), deadline, room, stage, scale),
        )


def torch_facts() -> dict[str, Any]:
    import torch
    import torch.distributed as distributed

    from vlp.doctor.machine_checks import available_memory
    from vlp.launch.runs.wandb_environment import has_wandb_key

    gpus = torch.cuda.device_count()
    there = distributed.is_available()
    names = {"gloo": distributed.is_gloo_available, "nccl": distributed.is_nccl_available} if there else {}
    return {
        "gpus": gpus,
        "names": [torch.cuda.get_device_name(index) for index in range(gpus)],
        "backends": [name for name, available in names.items() if available()],
        "threads": torch.get_num_threads(),
        "free": min(torch.cuda.mem_get_info(index)[0] for index in range(gpus)) if gpus else available_memory(),
        "wandb_key": has_wandb_key(),
    }


def count_model(config: dict[str, Any]) -> dict[str, Any]:
    """On the meta device, so that a model too large for the machine is counted as well; parts that need real tensors to be
    built are built for real."""
    import copy

    import torch

    from vlp.doctor.memory_estimate import count_memory
    from vlp.training.assemble import assemble
    from vlp.training.batch_norm import unsynchronized_batch_norms

    without_weights = {**copy.deepcopy(config), "checkpoint": None, "compile": False}
    try:
        with torch.device("meta"):
            module = assemble(copy.deepcopy(without_weights), Path("unused")).module
    except (RuntimeError, NotImplementedError, TypeError):
        module = assemble(without_weights, Path("unused")).module
    counted = count_memory(module, config)
    in_batch = [name for name, objective in module.trained.items() if objective.in_batch]
    return {
        "memory": counted.__dict__,
        "fixed": counted.fixed,
        "in_batch": in_batch,
        "own_statistics": unsynchronized_batch_norms(module.model),
    }


def measure_steps(
    config: dict[str, Any],
    folder: Path,
    world: int,
    deadline: float,
    room: float,
    stage: Callable[..., bool],
    scale: dict[str, float],
) -> dict[str, Any]:
    import lightning as L

    from vlp.build import build
    from vlp.doctor.memory_estimate import count_memory
    from vlp.doctor.step_profiler import MeasureSteps
    from vlp.training.assemble import assemble
    from vlp.training.trainer_arguments import trainer_arguments

    L.seed_everything(config["seed"], workers=True, verbose=False)
    now = time.monotonic()
    until = now + SHARE_OF_TIME * max(1.0, deadline - now)
    measuring = MeasureSteps(world=world, counted=_nothing(), until=until, allowed=lambda needed: needed.total < room)
    parts = assemble(config, folder)
    measuring.counted = count_memory(parts.module, config)
    average = (config.get("callbacks") or {}).get("ema")
    settings = trainer_arguments(config["trainer"], folder) | {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    settings |= {
        "fast_dev_run": False,
        "log_every_n_steps": 1000,
        "max_steps": -1,
        "max_epochs": 10**6,
    }  # it ends itself
    common: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "use_distributed_sampler": False,
    }
    callbacks = [measuring, *([build(average)] if average else []), *([parts.teachers] if parts.teachers else [])]
    trainer = build(settings | {"limit_val_batches": 0}, callbacks=callbacks, **common)
    trainer.fit(parts.module, parts.data)
    per_epoch = round(parts.data.steps_per_epoch * scale["train"])
    facts = measuring.facts() | {"per_epoch": per_epoch, "val_batches": 0, "val_seconds": 0.0}
    stage("fit", lambda: facts)
    sources = parts.data.sources_with_split("val")
    if not measuring.seconds or not sources:
        return {}
    stage("validation", lambda: measure_validation(parts, settings, common, sources, scale["val"]))
    return {}


def measure_validation(
    parts: Any, settings: dict[str, Any], common: dict[str, Any], sources: dict[str, Any], scale: float
) -> dict[str, Any]:
    """A few batches of each source; the figures themselves mean nothing, their names do."""
    from vlp.build import build

    batches = sum(math.ceil(scale * len(source.split("val")) / source.eval_batch_size) for source in sources.values())
    trainer = build(settings | {"limit_val_batches": VAL_BATCHES}, **common)
    begin = time.monotonic()
    trainer.validate(parts.module, parts.data, verbose=False)
    few = sum(min(VAL_BATCHES, -(-len(s.split("val")) // s.eval_batch_size)) for s in sources.values())
    figures = [name for name in trainer.callback_metrics if name.startswith("val/")]
    return {"val_seconds": (time.monotonic() - begin) / few, "val_batches": batches, "figures": figures}


def _nothing() -> Any:
    from vlp.doctor.memory_estimate import MemoryEstimate

    return MemoryEstimate(parameters=0, gradients=0, optimizer=0, copies=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
