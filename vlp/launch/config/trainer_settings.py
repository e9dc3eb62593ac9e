"""Arguments of Lightning's Trainer: which of them a run refuses, because another setting of vlp decides, and what to set instead.

Every argument is either here or has an effect; docs/guides/trainer.md lists all of them, and tests/training/test_trainer_table.py
compares the list with Lightning's signature.
"""

from __future__ import annotations

import re
from typing import Any

from vlp.launch.config.errors import ConfigError
from vlp.launch.config.layout import batch_sizes, source_key

REFUSED = {
    "logger": "loggers are chosen by logger=csv, logger=tensorboard, logger=wandb or logger=none",
    "callbacks": "callbacks are chosen by callbacks=[checkpoint,…], and others are added by +callbacks.NAME._target_=CLASS",
    "limit_predict_batches": "no run predicts; give vlp predict fewer files",
    "overfit_batches": "each epoch would draw other samples; to train on the same few, set the number of training samples",
    "enable_checkpointing": "checkpoints are written where callbacks=[…] contains checkpoint",
    "enable_progress_bar": "progress is shown where callbacks=[…] contains progress",
    "enable_model_summary": "vlp doctor counts parameters and memory; for Lightning's table add "
    "+callbacks.summary._target_=lightning.pytorch.callbacks.RichModelSummary",
    "use_distributed_sampler": "vlp's own sampler divides each batch of data.batch_size samples among the processes",
    "barebones": "it removes checkpoints and figures, which a run consists of; to measure speed use vlp doctor",
    "reload_dataloaders_every_n_epochs": "each epoch has its own order and augmentation already",
    "default_root_dir": "the run folder is <runs>/<name>/<stamp>: set runs=FOLDER",
    "enable_autolog_hparams": "a run logs its config.yaml, not Lightning's hyperparameters",
    "model_registry": "weights are read from a file: set checkpoint=PATH",
}
DURATION_UNITS = {"weeks", "days", "hours", "minutes", "seconds"}
DURATION = re.compile(r"\d+:\d\d:\d\d:\d\d")
REFUSED_PRECISIONS = ("64", "16-true", "bf16-true", "64-true", "transformer-engine", "transformer-engine-float16")
TRAINING_ONLY = {
    "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "detect_anomaly", "sync_batchnorm",
}  # fmt: skip


def check_trainer(config: dict[str, Any], *, evaluation: bool = False, changed: tuple[str, ...] = ()) -> None:
    """Raises ConfigError for the first setting of `config["trainer"]` that would have no effect, or not the one it names.

    evaluation: whether nothing is trained; then settings of training are refused as well where they are among `changed`, the
    overrides' keys (the YAML files are those of training).
    """
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        return
    for name, reason in REFUSED.items():
        if trainer.get(name) is not None:
            raise ConfigError(f"trainer.{name}={_shown(trainer[name])} has no effect: {reason}{_example(config, name)}")
    for name in sorted(TRAINING_ONLY) if evaluation else ():
        if f"trainer.{name}" in changed:
            raise ConfigError(f"trainer.{name} has no effect: an evaluation does not train; leave it out")
    used, unused = ("val", "test") if config.get("split") == "val" else ("test", "val")
    if evaluation and f"trainer.limit_{unused}_batches" in changed:
        raise ConfigError(
            f"trainer.limit_{unused}_batches has no effect with split={used}: set trainer.limit_{used}_batches"
        )
    precision = str(trainer.get("precision"))
    if precision in REFUSED_PRECISIONS:
        raise ConfigError(
            f"trainer.precision={precision} converts batches, of which pixels stay integers: choose 32-true, bf16-mixed or 16-mixed"
        )
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and strategy.startswith(("fsdp", "deepspeed")):
        raise ConfigError(f"trainer.strategy={strategy}: to divide weights among the processes choose trainer=fsdp")
    interval = trainer.get("val_check_interval")
    if isinstance(interval, (str, dict)):
        raise ConfigError(
            f"trainer.val_check_interval={_shown(interval)}: validations by the clock come at other steps each time; "
            "give a number of batches, or a share of an epoch"
        )
    limit = trainer.get("max_time")
    if isinstance(limit, dict) and not (
        limit.keys() <= DURATION_UNITS and all(type(n) in (int, float) and n >= 0 for n in limit.values())
    ):
        raise ConfigError(
            f"trainer.max_time={limit}: give numbers of {', '.join(sorted(DURATION_UNITS))}, each 0 or more"
        )
    if not (limit is None or isinstance(limit, dict) or "${" in str(limit) or DURATION.fullmatch(str(limit))):
        raise ConfigError(
            f"trainer.max_time={limit}: give days, hours, minutes and seconds, such as 00:12:00:00 for twelve hours"
        )


def check_validation_interval(
    interval: int | float, *, every_epochs: int | None, batches: int, validates: bool
) -> None:
    """To call when the data are known.  batches: of a training epoch.  Raises ConfigError."""
    if validates and isinstance(interval, int) and every_epochs is not None and interval > batches:
        raise ConfigError(
            f"trainer.val_check_interval={interval}: an epoch has {batches} batches: give at most {batches}, or set "
            "trainer.check_val_every_n_epoch=null, which counts batches over epochs"
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example(config: dict[str, Any], name: str) -> str:
    batches = config["trainer"][name]
    if name != "overfit_batches" or not isinstance(batches, int) or "data" not in config:
        return ""
    source, size = next(iter(batch_sizes(config).items()))
    return f": {source_key(config, source, 'max_train_samples')}={batches * size} for {batches} batches of {size}"
