"""What a person sees while a run continues: a bar with samples/s and time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from vlp.system.progress import on_terminal


class _Rate:
    """Samples of all ranks per second of the time between `start` and `stop`."""

    def __init__(self) -> None:
        self.seconds, self.samples, self.since = 0.0, 0, time.perf_counter()

    def start(self, module: Any) -> None:
        self.since, self.before = time.perf_counter(), module.samples_seen

    def stop(self, module: Any) -> None:
        self.seconds += time.perf_counter() - self.since
        self.samples += module.samples_seen - self.before

    def per_second(self, module: Any) -> float:
        seconds = self.seconds + time.perf_counter() - self.since
        return (self.samples + module.samples_seen - self.before) / max(seconds, 1e-9)


class ProgressBar(RichProgressBar):
    """Lightning's bar (steps, elapsed, time left of the epoch) with samples/s and the loss."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.rate = _Rate()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.restarted_mid_epoch:  # Lightning then calls no start of the epoch
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.rate.start(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rate.stop(pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        if trainer.training and not trainer.sanity_checking:
            items["samples/s"] = f"{self.rate.per_second(pl_module):.0f}"
        return items


class Lines(Callback):
    """One line per epoch: losses, the monitored figure, samples/s, time left of the whole run."""

    def __init__(self, monitor: str) -> None:
        self.monitor, self.rate, self.begin = monitor, _Rate(), 0.0
        self.last_line_epoch = -1  # the last epoch that has its line

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begin, self.first_step = time.perf_counter(), trainer.global_step
        self.rate.start(pl_module)  # Lightning calls no start of an epoch that a checkpoint has begun

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rate.start(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.rate.stop(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.rate.start(pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._print_line(trainer, pl_module, validated=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.rate.stop(pl_module)
        self.rate.start(pl_module)
        if self.last_line_epoch < trainer.current_epoch:  # no validation in this one
            self._print_line(trainer, pl_module)

    def _print_line(self, trainer: L.Trainer, pl_module: Any, validated: bool = False) -> None:
        self.last_line_epoch = trainer.current_epoch
        if not trainer.is_global_zero:
            return
        figures = trainer.callback_metrics
        names = [name for name in figures if name.endswith("/loss")]  # train/<source>/<objective>/loss
        several = len({name.split("/")[1] for name in names}) > 1
        losses = ", ".join(f"{' '.join(n.split('/')[1 if several else 2 : -1])} {float(figures[n]):.3f}" for n in names)
        known = validated and self.monitor in figures
        monitored = f"{self.monitor} {float(figures[self.monitor]):.1f}" if known else ""
        done = trainer.global_step - self.first_step
        left = (
            (time.perf_counter() - self.begin)
            * max(0, pl_module.optimizer_steps() - trainer.global_step)
            / max(1, done)
        )
        pace = (
            f"{self.rate.per_second(pl_module):.0f} samples/s, {left:.0f} s left" if done else ""
        )  # none since a resume
        line = ", ".join(part for part in (losses, monitored, pace) if part)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {line}", flush=True)


def progress(*, monitor: str) -> Callback:
    return ProgressBar() if on_terminal(stderr=False) else Lines(monitor)
