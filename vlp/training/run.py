"""One run from its frozen config: `python -m vlp.training.run RUN/config.yaml` builds the parts, fits, tests the best
checkpoint and writes `results.json`. Lightning starts further ranks with the same command line, so every rank reads
the same file, and they compare what they read.

Where RUN/checkpoints holds a checkpoint, the run continues from it: whoever starts the same command again, a person, a
sweep, SLURM or torchrun, continues the run.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar, Timer

from vlp.build import build
from vlp.checkpoints import sharded
from vlp.checkpoints.tensor_files import read as read_any
from vlp.data.parts import eval_split_statistics
from vlp.distributed import gather_objects, prefix_rendezvous_by_attempt
from vlp.launch.config.changes import changes
from vlp.launch.config.layout import wrong_monitor
from vlp.launch.config.ranges import check_ranges
from vlp.launch.config.trainer_settings import check_trainer
from vlp.launch.runs.lock import run_folder_lock
from vlp.launch.runs.results import protocol_card, write_results
from vlp.report.tables import print_results
from vlp.system import ranks
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject
from vlp.training.assemble import RunParts, assemble, build_loggers, read_config, silence_known_warnings
from vlp.training.callbacks.timer import RunTimer
from vlp.training.determinism import numeric_settings, report_changed_numerics
from vlp.training.lifecycle.checkpoint_files import (
    BEST,
    AtomicCheckpointIO,
    describe_damage,
    newest_checkpoint,
    read_checkpoint,
    remove_unfinished_files,
)
from vlp.training.lifecycle.entry import run_entry_point
from vlp.training.lifecycle.signals import SIGNALS, replace_lightning_signals
from vlp.training.loggers import JsonLines, log_results
from vlp.training.trainer_arguments import build_trainer, trainer_arguments
from vlp.upgrade import upgrade


class SameConfig(Callback):
    """Every process must have read the same config; on several machines each reads its own copy of the file."""

    def __init__(self, file: Path) -> None:
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        digests = gather_objects(self.digest)
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise UserError(
                f"ranks {', '.join(map(str, others))} read another config.yaml than rank 0: put the run folder on a file "
                "system that all machines share, with runs=DIR"
            )


def run(config_path: Path) -> dict[str, Any]:
    """Fits and tests; returns the flat results that are also in results.json."""
    with run_folder_lock(config_path.parent):
        return _run(config_path)


def _run(config_path: Path) -> dict[str, Any]:
    start = time.perf_counter()
    config, stored = read_config(config_path)
    check_ranges(config)
    check_trainer(config)
    if (wrong := wrong_monitor(config)) is not None:
        raise UserError(wrong)
    folder = config_path.parent
    silence_known_warnings()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    use_free_port()
    prefix_rendezvous_by_attempt()
    begin, content = _find_start_checkpoint(folder, config, stored)
    inject("build")
    parts = assemble(config, folder, stored, resumed=content)
    timer = RunTimer(config["trainer"].get("max_time"))
    first = [SameConfig(config_path), *([parts.teachers] if parts.teachers else [])]
    trainer = _build_trainer(config, folder, first, [timer])
    replace_lightning_signals(trainer)
    if content is not None and trainer.is_global_zero:
        report_changed_numerics(content.get("numerics", {}))
    trainer.fit(parts.module, parts.data, ckpt_path=begin, weights_only=True)
    SIGNALS.training = False
    best = folder / "checkpoints" / BEST
    selected = best.exists() and not config["trainer"].get("fast_dev_run")
    figures, extents = _measure(trainer, parts, best if selected else None, (content or {}).get("figures", {}))
    results = figures | {
        "seconds": round(time.perf_counter() - start, 1),
        "train_seconds": round(timer.time_elapsed("train"), 1),
        "this_process_train_seconds": _train_seconds_here(timer),
        "samples_seen": parts.module.samples_seen,
        "steps": trainer.global_step,
        **numeric_settings(),
    }
    if trainer.is_global_zero:
        card = protocol_card(
            stored, str(parts.data.name), eval_split_statistics(parts.data, extents), selected=selected
        )
        if parts.teachers:
            card["teachers"] = [f"{name}: {of['path']} {of['sha256']}" for name, of in parts.teachers.record().items()]
        results = write_results(folder, results, card)
        log_results(trainer.loggers, results)
        print_results(results, folder)
    inject("teardown")
    return results


def _build_trainer(
    config: dict[str, Any], folder: Path, first: Sequence[L.Callback], last: Sequence[L.Callback]
) -> L.Trainer:
    """first, last: callbacks before and after those of the config."""
    callbacks = [*first, *(build(node) for node in config.get("callbacks", {}).values() if node), *last]
    arguments = trainer_arguments(config["trainer"], folder)
    return build_trainer(
        arguments,
        logger=build_loggers(config, folder),
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO(), *arguments["plugins"]],
    )


def _measure(
    trainer: L.Trainer, parts: RunParts, best: Path | None, earlier: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Figures of val and test, and what they are of (`Measurement.extent`) by split: of the weights in `best`, which the module
    gets, or else of those that it has.

    earlier: figures of the checkpoint that the run began from, used if this process validated nothing.
    """
    module = parts.module
    figures, extents = module.latest_figures("val") or earlier, {"val": module.extents.get("val", {})}
    if best is not None:
        chosen = read_any(best)
        module.load_state_dict(chosen["state_dict"])
        figures, extents["val"] = chosen["figures"], chosen.get("val_extent", {})
    if len(parts.data.split("test")):
        trainer.test(module, parts.data, verbose=False)
        figures |= module.latest_figures("test")
        extents["test"] = module.extents.get("test", {})
    return figures, extents


def _train_seconds_here(timer: Timer) -> float:
    """Seconds of training in this process alone; `Timer.time_elapsed` adds those before the checkpoint that it began from."""
    began, ended = timer.start_time("train"), timer.end_time("train")
    return 0.0 if began is None or ended is None else round(ended - began, 1)


def use_free_port() -> None:
    """Where this process is to start the others and MASTER_PORT is taken, another port is looked for."""
    port = os.environ.get("MASTER_PORT")
    if not port or "LOCAL_RANK" in os.environ or "SLURM_JOB_ID" in os.environ:
        return
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gloo and nccl do
        if not (port.isascii() and port.isdigit() and int(port) < 2**16):
            raise UserError(
                f"MASTER_PORT={port}: the environment variable is to be a port, a number up to 65535; unset it"
            )
        try:
            server.bind(("", int(port)))
        except OSError:
            print(f"warning: MASTER_PORT={port} is taken; another port is used", file=sys.stderr, flush=True)
            del os.environ["MASTER_PORT"]


def _find_start_checkpoint(
    folder: Path, config: dict[str, Any], stored: dict[str, Any]
) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to continue from, and its content: this run's own newest complete one, or that of `resume`."""
    checkpoints = folder / "checkpoints"
    main = ranks.rank() == 0
    if main:
        remove_unfinished_files(checkpoints)
        for note in folder.glob("error*.txt"):  # of the process that this one continues from
            note.unlink()
    path, passed = newest_checkpoint(checkpoints)
    if passed and path is None:
        raise UserError(
            f"{'; '.join(passed.values())}: no readable checkpoint; to start over, delete {checkpoints}, and check the disk"
        )
    for damaged, sentence in passed.items() if main else ():
        print(f"warning: {sentence}; resuming from {path}", file=sys.stderr, flush=True)
        damaged.replace(damaged.with_name(f"damaged-{damaged.name}"))  # else it would take the place of the one before
    own = path is not None
    if path is None and config["resume"]:
        path = Path(config["resume"])
        if path.is_dir() and not sharded.is_sharded(path):
            path = newest_checkpoint(path / "checkpoints")[0] or path / "checkpoints" / "last.ckpt"
        wrong = describe_damage(path)
        if wrong is not None:
            raise UserError(f"resume={path}: it {wrong}")
    if path is None:
        if main:
            JsonLines(folder=folder).rewind(0)
        return None, None
    content = read_checkpoint(path)
    differing = changes(upgrade(content.get("config", {})), stored)
    if differing and not config.get("force"):
        raise UserError(
            f"resume={path}: settings differ from the checkpoint's that change what is trained: {'; '.join(differing)}; "
            "use the run's own, or resume anyway with force=true"
        )
    if main and own:
        JsonLines(folder=folder).rewind(content.get("logged_bytes"))
        print(f"resuming from {path}, step {content['global_step']}", file=sys.stderr, flush=True)
    return path, content


if __name__ == "__main__":
    run_entry_point("train", run)
