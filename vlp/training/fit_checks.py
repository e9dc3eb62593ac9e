"""What a run refuses, or warns of, when its data are read and before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from vlp.launch.config.layout import batches_per_epoch, wrong_monitor
from vlp.launch.config.trainer_settings import check_validation_interval
from vlp.objectives.base import Objective
from vlp.system.errors import UserError
from vlp.training.batch_norm import describe_unsynchronized, unsynchronized_batch_norms


def check_fit(
    trainer: L.Trainer, *, model: nn.Module, trained: Mapping[str, Objective], config: Mapping[str, Any]
) -> None:
    """trained: the objectives of a weight above 0.  Raises UserError."""
    if not trained:
        raise UserError("nothing to optimise: every objective has weight 0")
    in_batch = [name for name, objective in trained.items() if objective.in_batch]
    if trainer.accumulate_grad_batches > 1 and in_batch:
        raise UserError(
            f"trainer.accumulate_grad_batches > 1 would change {', '.join(in_batch)}, whose negatives are the other "
            "samples of one batch: set data.batch_size to the whole batch and gradient_cache to the rows that fit"
        )
    batches = batches_per_epoch(trainer.datamodule.steps_per_epoch, trainer.limit_train_batches)  # type: ignore[attr-defined]
    check_validation_interval(
        trainer.val_check_interval,
        every_epochs=trainer.check_val_every_n_epoch,
        batches=batches,
        validates=trainer.limit_val_batches != 0,
    )
    _check_early_stopping(trainer, config, batches)
    for split, limit in (("val", trainer.limit_val_batches), ("test", trainer.limit_test_batches)):
        if isinstance(limit, float) and 0 < limit < 1:
            _check_share(trainer, split, limit)
    if trainer.world_size > 1 and (names := unsynchronized_batch_norms(model)):
        synchronized = bool((config.get("trainer") or {}).get("sync_batchnorm"))
        rank_zero_warn(describe_unsynchronized(names, synchronized))


def _check_share(trainer: L.Trainer, split: str, limit: float) -> None:
    """Lightning refuses a share of less than one batch when the split is measured, which of test is after training."""
    for source, data in trainer.datamodule.sources_with_split(split).items():  # type: ignore[attr-defined]
        batches = -(-len(data.split(split)) // (data.eval_batch_size * trainer.world_size))
        if limit * batches < 1:
            raise UserError(
                f"trainer.limit_{split}_batches={limit}: less than one of the batches of {source}'s {split} split, of which "
                f"there are {batches}: give at least {1 / batches:.3g}, or a number of batches"
            )


def _check_early_stopping(trainer: L.Trainer, config: Mapping[str, Any], batches: int) -> None:
    """batches: of a training epoch.  Lightning's ends training with a RuntimeError where its figure is absent after an epoch."""
    for callback in trainer.early_stopping_callbacks:
        wrong = wrong_monitor({**config, "monitor": callback.monitor}) if config else None
        if wrong is not None:
            raise UserError(f"early stopping: {wrong}")
        steps = -(-batches // trainer.accumulate_grad_batches)
        shares = isinstance(trainer.val_check_interval, float) and trainer.val_check_interval == 1.0
        if trainer.limit_val_batches == 0 or (shares and 0 <= trainer.max_steps < steps):
            raise UserError(
                f"early stopping waits for {callback.monitor}, and the run ends before its first validation (trainer.max_steps="
                f"{trainer.max_steps}, {steps} steps in an epoch): leave the callback out, or train longer"
            )
