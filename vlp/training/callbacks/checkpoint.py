"""checkpoints/last.ckpt and checkpoints/best.ckpt of a run folder, from which the run continues bit-exactly.

A checkpoint is written between two steps, when every figure of the steps before it is in the log: at the start of the
next step, before a validation (which a run that continues then does first), and at the end of an epoch. All processes take
part in each decision, so a signal to one, or a disk that is full for one, is the same event for all.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from vlp.distributed import gather_objects
from vlp.launch.config.layout import length_settings
from vlp.system.compat.lightning import enter_fit_loop_always, set_logged_step
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject
from vlp.training.lifecycle.checkpoint_files import BEST, LAST, AtomicCheckpointIO, copy_file
from vlp.training.lifecycle.endings import Ending, find_ending
from vlp.training.lifecycle.nonfinite import NotFinite, all_finite
from vlp.training.lifecycle.ranking import Ranking, ranked_name
from vlp.training.lifecycle.restart import count_finished_epochs
from vlp.training.lifecycle.signals import SIGNALS, RunStopped

ON_DISK_FULL = ("stop", "continue")


class RunCheckpoint(Checkpoint):
    """folder: of the files.  monitor, mode: the figure that selects best.ckpt, and whether "max" or "min" is better; a figure
    that is no number is never best, and of equal ones the first stays.  save_top_k: how many of the best are kept: of more than
    one (-1: of all) each is also step_<optimiser steps>.ckpt; 0 = none, not even best.ckpt.
    every_n_train_steps, every_n_minutes, every_n_epochs: when last.ckpt is due, whichever comes first; None = not by this. It is
    also written at the end, and on a signal.
    on_disk_full: what follows when a checkpoint cannot be written: "stop" the run (exit 2; the last checkpoint is intact) or
    "continue" and try again when the next is due.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        monitor: str,
        mode: str = "max",
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
        every_n_minutes: int | float | None = None,
        every_n_epochs: int | None = 1,
        on_disk_full: str = "stop",
    ) -> None:
        if mode not in ("max", "min"):
            raise UserError(f'callbacks.checkpoint.mode={mode}: choose "max" or "min"')
        if on_disk_full not in ON_DISK_FULL:
            raise UserError(f"callbacks.checkpoint.on_disk_full={on_disk_full}: choose from {', '.join(ON_DISK_FULL)}")
        if save_top_k < -1:
            raise UserError(
                f"callbacks.checkpoint.save_top_k={save_top_k}: give a number of checkpoints, or -1 to keep all"
            )
        for name, value in (
            ("train_steps", every_n_train_steps),
            ("minutes", every_n_minutes),
            ("epochs", every_n_epochs),
        ):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.checkpoint.every_n_{name}={value}: give a number above 0, or null")
        self.folder, self.monitor, self.mode, self.on_disk_full = Path(folder), monitor, mode, on_disk_full
        self.steps, self.minutes, self.epochs = every_n_train_steps, every_n_minutes, every_n_epochs
        self.ranking = Ranking(folder=self.folder, keep=save_top_k, largest_first=mode == "max")
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.validation_due = False  # the checkpoint stands before a validation
        self.stopping = False  # the trainer had decided to stop before its last step
        self.ending: Ending | None = None  # by what; None = by a callback of unknown kind
        self._figures: dict[str, float] = {}  # of the checkpoint's last validation
        self._lengthened = False  # resumed to train longer than the checkpoint's config says
        self._restored = False  # until the first step after a checkpoint was loaded
        self._measured = False  # a validation ended that was not yet compared with the best
        self._again = False  # within a validation that a checkpoint stood before

    # -- what a checkpoint knows of itself ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.ranking.state_dict(),
            "monitor": self.monitor,
            "mode": self.mode,
            "validation_due": self.validation_due,
            "stopping": self.stopping,
        }

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch"] = count_finished_epochs(checkpoint["loops"]["fit_loop"])
        checkpoint["ended"] = None if self.ending is None else self.ending.as_dict()
        metrics = self.folder.parent / "metrics.jsonl"
        checkpoint["logged_bytes"] = metrics.stat().st_size if metrics.exists() else 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        same = (state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)) == (self.monitor, self.mode)
        # a new run that continues from a file of another one has no best.ckpt yet
        if same and (self.folder / BEST).exists():
            self.ranking.load_state_dict(state_dict)
        self.validation_due = state_dict.get("validation_due", False)
        self.stopping = state_dict.get("stopping", False)
        self._restored = True

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        ended = checkpoint.get("ended")
        self.ending = None if ended is None else Ending(**ended)
        self._lengthened = length_settings(checkpoint.get("config", {})) != length_settings(pl_module.config)
        self._figures = checkpoint.get("figures", {})

    # -- when ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        SIGNALS.connect(trainer)
        enter_fit_loop_always(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        _check_validation(trainer)
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()
        SIGNALS.training = True
        inject("fit", step=trainer.global_step, rank=trainer.global_rank)
        if self.stopping:
            self._end_again(trainer, pl_module)
        if self.validation_due:
            self._again = True
            validate_again(trainer)
            self._again = False
            self._save_between_steps(trainer, due=True)  # here, for there may be no further step

    def _end_again(self, trainer: L.Trainer, module: Any) -> None:
        """Training had ended before its last step: it stays so, unless a setting lifts what ended it."""
        known, now = self.ending is not None, find_ending(trainer, module.config, self._figures)
        if now is not None and self._lengthened:
            raise UserError(f"training ended at step {trainer.global_step} by {now.reason}: to continue, {now.advice}")
        if now is None and (known or self._lengthened):
            self.stopping, self.ending, trainer.should_stop = False, None, False
            return
        self.ending, trainer.should_stop = now, True

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._restored:  # Lightning counts some restarts as a step
            set_logged_step(trainer, trainer.global_step)
            self._restored = False
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._save_between_steps(trainer)
        inject("batch", step=trainer.global_step, rank=trainer.global_rank)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        inject("step", step=trainer.global_step, rank=trainer.global_rank)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self._again:
            self.validation_due = True
            self._save_between_steps(
                trainer, due=True
            )  # a long validation that is cut off then costs nothing but itself

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            inject("validation", step=trainer.global_step, rank=trainer.global_rank)
            if (
                code := SIGNALS.stop_requested()
            ):  # not agreed on: ranks have different numbers of batches, and all is on the disk
                SIGNALS.request_stop()
                raise RunStopped(code)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.validation_due, self._measured = False, True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.stopping = trainer.should_stop
        self.ending = find_ending(trainer, pl_module.config, trainer.callback_metrics) if self.stopping else None
        every = self.epochs is not None and (trainer.current_epoch + 1) % self.epochs == 0
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        # the last one is written here, as averaged weights take the place of the others when training has ended
        self._save_between_steps(trainer, due=every or trainer.should_stop or last)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        SIGNALS.training = False
        if self.stopping and trainer.is_global_zero:
            by = self.ending or Ending("a callback", "callbacks", "change its settings or set more trainer.max_epochs")
            print(
                f"training ended at step {trainer.global_step} by {by.reason}; to continue, {by.advice}",
                file=sys.stderr,
                flush=True,
            )

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        inject("test", rank=trainer.global_rank)

    def _save_between_steps(self, trainer: L.Trainer, *, due: bool = False) -> None:
        due = due or (self.steps is not None and trainer.global_step - self.saved_step >= self.steps)
        late = self.minutes is not None and time.monotonic() - self.saved_at >= 60 * self.minutes
        stop, save, late_for_one = SIGNALS.agree_on_signals(int(late))
        if self._again:  # on the way back into a validation; nothing is new
            due, save, late_for_one = False, 0, 0
        if self._measured and self.ranking.admits(score := self._score(trainer)):
            before = self.ranking.state_dict()
            best = self.ranking.insert(score, trainer.global_step)
            if not self.save(trainer, best=best, kept=self.ranking.keep not in (0, 1)):
                self.ranking.load_state_dict(before)
        elif due or late_for_one or save or (stop and trainer.global_step > self.saved_step):
            self.save(trainer)
        self._measured = False
        if stop:
            raise RunStopped(stop)

    def _score(self, trainer: L.Trainer) -> float:
        if self.monitor not in trainer.callback_metrics:
            measured = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"monitor={self.monitor} was not measured: choose one of {measured}")
        return float(trainer.callback_metrics[self.monitor])

    # -- how -----------------------------------------------------------------------------------------------------------

    def save(self, trainer: L.Trainer, *, best: bool = False, kept: bool = False) -> bool:
        """last.ckpt, best.ckpt where these weights are the best, and a file of their own where they are kept among the best.
        Every rank calls it. False: the disk is full."""
        spoiled = [name for name, value in trainer.lightning_module.named_parameters() if not all_finite([value])]
        if any(gather_objects(bool(spoiled))):
            raise NotFinite(
                f"after {trainer.global_step} steps {len(spoiled)} weights hold numbers that are not finite "
                f"({', '.join(spoiled[:3])}): they are not written over {self.folder / LAST}; lower optimizer.lr, or set "
                "trainer.gradient_clip_val=1"
            )
        files = trainer.strategy.checkpoint_io
        written = self.folder / (BEST if best else LAST)
        trainer.save_checkpoint(written)
        error: OSError | None = getattr(files, "error", None)
        for name in [LAST] * best + [ranked_name(trainer.global_step)] * kept:
            if written.is_dir():  # shards of several processes
                trainer.save_checkpoint(self.folder / name)
            elif trainer.is_global_zero and error is None:
                try:
                    copy_file(written, self.folder / name)
                except OSError as found:
                    error = found
        if isinstance(files, AtomicCheckpointIO):
            files.error = None
        failure = next((text for text in gather_objects(str(error) if error else None) if text), None)
        self.saved_at = time.monotonic()
        if failure is None:
            self.saved_step = trainer.global_step
            if kept and trainer.is_global_zero:
                self.ranking.remove_others()
            return True
        earlier = "the one before is intact" if (self.folder / LAST).exists() else "there is none before it"
        message = f"the checkpoint of step {trainer.global_step} could not be written ({failure}); {earlier}"
        if self.on_disk_full == "stop":
            raise OSError(f"{message}: make room, and resume with resume={self.folder.parent}")
        if trainer.is_global_zero:
            print(f"warning: {message}; training continues", file=sys.stderr, flush=True)
        return False


def _check_validation(trainer: L.Trainer) -> None:
    """Within accumulated batches no checkpoint can be written."""
    every, accumulated = trainer.val_check_batch or math.inf, trainer.accumulate_grad_batches
    over_epochs = trainer.check_val_every_n_epoch is None
    within = every < trainer.fit_loop.max_batches or (over_epochs and every != math.inf)
    cuts = every % accumulated or (over_epochs and trainer.fit_loop.max_batches % accumulated)
    if accumulated > 1 and within and cuts:
        raise UserError(
            f"trainer.val_check_interval: a validation every {every:g} batches would cut through a step's {accumulated} "
            f"accumulated batches: choose a multiple of trainer.accumulate_grad_batches={accumulated}"
        )


def validate_again(trainer: L.Trainer) -> None:
    """The validation that a checkpoint stands before, with the counters that it would have seen."""
    loop = trainer.fit_loop
    steps = loop.epoch_loop
    epochs: Any = loop.epoch_progress.current
    after_epoch = steps.batch_progress.current.ready == 0  # the checkpoint counts as the next epoch's beginning
    set_logged_step(trainer, trainer.global_step - 1)
    steps.val_loop.restarting = False
    epochs.processed -= after_epoch
    epochs.completed -= after_epoch
    trainer.validating = True
    steps.val_loop.run()
    trainer.training = True
    set_logged_step(trainer, trainer.global_step)
    epochs.processed += after_epoch
    epochs.completed += after_epoch
