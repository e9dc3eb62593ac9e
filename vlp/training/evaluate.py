"""Measures a checkpoint from its frozen config: `python -m vlp.training.evaluate RUN/config.yaml`. Model, tokenizer and
transform are the checkpoint's own; data and tasks are the config's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from vlp.build import build
from vlp.checkpoints.keys import load_strictly
from vlp.checkpoints.load import read, save
from vlp.data.parts import build_data, eval_split_statistics
from vlp.launch.config.choices import options
from vlp.launch.config.layout import tasks as tasks_of
from vlp.launch.runs.results import protocol_card, write_results
from vlp.models.vision.tome import set_merging
from vlp.predictor import Predictor, load
from vlp.report.tables import is_task_figure, print_results
from vlp.system.errors import UserError
from vlp.tasks.base import Task
from vlp.training.assemble import build_loggers, read_config, silence_known_warnings
from vlp.training.callbacks.pictures import Pictures
from vlp.training.determinism import numeric_settings
from vlp.training.lifecycle.entry import run_entry_point
from vlp.training.loggers import log_pictures
from vlp.training.mixed_evaluation import draw_mix_curves, first_state, measure_mixes
from vlp.training.module import VisionLanguageModule
from vlp.training.trainer_arguments import build_trainer, trainer_arguments


def evaluate(config_path: Path) -> dict[str, Any]:
    """The flat results that are also in results.json."""
    start = time.perf_counter()
    config, stored = read_config(config_path)
    folder = config_path.parent
    silence_known_warnings()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    *earlier, path = config["checkpoint"] if config.get("mix") else [config["checkpoint"]]
    predictor = load(path, **config.get("architecture", {}))
    if config.get("merging"):
        set_merging(predictor.model, config["merging"])
    if predictor.transform is None:
        raise UserError(f"checkpoint={config['checkpoint']}: its image preprocessing is not one that vlp knows")
    transform = {"train": predictor.transform, "eval": predictor.transform}
    data = build_data(config, tokenizer=predictor.tokenizer_of_texts(), transform=transform)
    tasks = {name: _task(name, node, predictor) for name, node in tasks_of(config).items()}
    heads: dict[str, Any] = {name: head for name, head in predictor.objectives.items() if name not in tasks}
    for head in heads.values():
        head.weight = 0.0  # only others use it
    module = VisionLanguageModule(model=predictor.model, objectives=heads, tasks=tasks, config=stored)
    trainer = build_trainer(
        trainer_arguments(config["trainer"], folder),
        logger=build_loggers(config, folder),
        callbacks=[Pictures(folder=folder)],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run = {"val": trainer.validate, "test": trainer.test}.get(config["split"])
    if run is None:
        raise UserError(f"split={config['split']}: expected val or test")

    def measure() -> dict[str, float | None]:
        run(module, datamodule=data, verbose=False)
        return module.latest_figures(config["split"])

    if earlier:
        first = first_state(load(earlier[0], **config.get("architecture", {})), module)
        results: dict[str, Any] = dict(measure_mixes(module, first, config["mix"], measure))
    else:
        results = dict(measure())
    if not any(map(is_task_figure, results)):
        raise UserError(
            f"nothing was measured: no {config['split']} batch has what {', '.join(tasks) or 'no task'} needs: choose "
            f"another task=[…] or data=…, and leave trainer.limit_{config['split']}_batches above 0"
        )
    if trainer.is_global_zero:
        results = results | {"seconds": round(time.perf_counter() - start, 1)} | numeric_settings()
        statistics = eval_split_statistics(data, {config["split"]: module.extents[config["split"]]})
        results = write_results(folder, results, protocol_card(stored, str(data.name), statistics))
        if earlier and (picture := draw_mix_curves(results, folder / "plots" / f"{config['split']}_mix_curves.png")):
            log_pictures(trainer.loggers, trainer.global_step, {"mix_curves": picture})
        print_results(results, folder)
        for name, task in tasks.items():
            _save_with_head(config, name, task)
    return results


def _save_with_head(config: dict[str, Any], name: str, task: Any) -> None:
    """Writes the measured checkpoint with the classifier that the task has fitted, where it was asked to."""
    if getattr(task, "save", None) is None:
        return
    checkpoint = read(Path(config["checkpoint"]), config.get("architecture", {}))
    node = {key: value for key, value in config["tasks"][name].items() if key != "save"} | task.head_settings()
    checkpoint.config["objectives"] = {**(checkpoint.config.get("objectives") or {}), name: node}
    others = {key: value for key, value in checkpoint.heads.items() if not key.startswith(f"{name}.")}
    checkpoint.heads = others | {f"{name}.{key}": value.cpu() for key, value in task.state_dict().items()}
    save(checkpoint, Path(task.save))
    print(f"checkpoint with the classifier: {task.save}", flush=True)


def _task(name: str, node: dict[str, Any], predictor: Predictor) -> Task:
    """As the config has it, but with the checkpoint's own head, if there is one."""
    if name not in predictor.objectives:
        return build(node)
    stored: Any = predictor.objectives[name]
    task: Task = build({**node, **_stored_settings(name, node, predictor.nodes[name], stored)})
    if task.state_dict():
        load_strictly(task, stored.state_dict())
    return task


def _stored_settings(
    name: str, node: Mapping[str, Any], stored_node: Mapping[str, Any], stored: Task | type[Task]
) -> dict[str, Any]:
    """Those of the checkpoint's head that replace the config's. What the config changes from its YAML counts where no weight
    depends on it (`Task.changeable`); elsewhere a UserError says that it cannot."""
    files = options("task")
    standard = yaml.safe_load(files[name].read_text(encoding="utf-8")) if name in files else {}
    taken = {}
    for key in stored.stored:
        if key not in stored_node:
            continue
        chosen, usual, own = node.get(key), standard.get(key), stored_node[key]
        changed = chosen not in (None, usual, own) and "$" not in str(usual)
        if changed and key not in stored.changeable:
            raise UserError(
                f"tasks.{name}.{key}={chosen}: the checkpoint's head was made with {own}; leave it out, as that is used"
            )
        if not changed:
            taken[key] = own
    return taken


if __name__ == "__main__":
    run_entry_point("evaluate", evaluate)
