"""One run from its frozen config: `python -m vlp.training.run RUN/config.yaml` builds the parts, fits, tests the best
checkpoint and writes `results.json`. Lightning starts further ranks with the same command line, so every rank reads
the same file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer

from vlp.build import build
from vlp.checkpoints import files
from vlp.training.assemble import assemble, build_loggers, check_monitor, quiet, read_config
from vlp.training.entry import enter
from vlp.training.loggers import log_results
from vlp.training.results import print_table, write_results


def run(config_path: Path) -> dict[str, Any]:
    """Fits and tests; returns the flat results that are also in results.json."""
    start = time.perf_counter()
    config, stored = read_config(config_path)
    check_monitor(config)
    folder = config_path.parent
    quiet()
    L.seed_everything(config["seed"], workers=True, verbose=False)
    parts = assemble(config, folder, stored)
    timer = Timer()
    callbacks = [build(node) for node in config["callbacks"].values() if node] + [timer]
    trainer: L.Trainer = build(
        config["trainer"],
        logger=build_loggers(config, folder),
        callbacks=callbacks,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    trainer.fit(parts.module, parts.data, ckpt_path=config["resume"], weights_only=True)
    figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best and not config["trainer"].get("fast_dev_run"):
        content = files.read(Path(best))
        parts.module.load_state_dict(content["state_dict"])
        figures = content["figures"]
    if len(parts.data.split("test")):
        trainer.test(parts.module, parts.data, verbose=False)
        figures |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    results = figures | {
        "seconds": round(time.perf_counter() - start, 1),
        "train_seconds": round(timer.time_elapsed("train"), 1),
        "samples_seen": parts.module.samples_seen,
        "steps": trainer.global_step,
    }
    if trainer.is_global_zero:
        results = write_results(folder, results, stored, parts.data)
        log_results(trainer.loggers, results)
        print_table(results, folder)
    return results


if __name__ == "__main__":
    enter("train", run)
