"""A callback that writes down what a run did, for tests of the settings that decide it."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class Seen(Callback):
    """stop_at: a step at which it asks the trainer to stop. The latest one is `Seen.latest`."""

    latest: ClassVar[Seen]

    def __init__(self, *, stop_at: int | None = None) -> None:
        Seen.latest = self
        self.stop_at = stop_at
        self.batches: Counter[str] = Counter()  # by stage
        self.validated_at: list[int] = []
        self.gradients: list[torch.Tensor] = []  # of each step, after clipping
        self.flags: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.flags = {
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
            "device": pl_module.device.type,
            "precision": trainer.precision,
            "environment": type(trainer.strategy.cluster_environment).__name__
            if hasattr(trainer.strategy, "cluster_environment")
            else None,
            "plugins": [type(plugin).__name__ for plugin in (trainer.precision_plugin, trainer.strategy.checkpoint_io)],
        }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches["train"] += 1
        if trainer.global_step == self.stop_at:
            trainer.should_stop = True

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        found = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        if found:
            self.gradients.append(torch.cat(found).clone())

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.batches["sanity" if trainer.sanity_checking else "val"] += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated_at.append(trainer.global_step)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.batches["test"] += 1
        self.flags["inference"] = torch.is_inference_mode_enabled()
