"""What happens at a loss or a gradient that is no number: stop, leave the step out, or go back.

raise: stop with exit code 4.  skip: the step is left out: weights, optimiser, queues and running statistics stay; the
schedule continues, and so do moving averages.  rollback: weights, optimiser, moving averages and queues become those of the
last checkpoint, and training continues with the data that come next. After `limit` such steps in a row, both stop.

The decision is taken from the gradients after the processes have averaged them, so all of them take the same one, also
when the number came up in one process alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vlp.distributed import gather_objects, sum_over_ranks
from vlp.system.compat.torch import local_part
from vlp.system.errors import UserError
from vlp.training.lifecycle.checkpoint_files import newest_checkpoint, read_checkpoint

POLICIES = ("raise", "skip", "rollback")


class NotFinite(UserError, ArithmeticError):
    """Training diverged; the entry point exits with 4."""


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all of them hold finite numbers; waits for the accelerator. Integers do, and of a sharded tensor each process
    looks at its own rows."""
    own = [local_part(value) for value in tensors if value.is_floating_point()]
    own = [value for value in own if value.numel()]
    wide = [value for value in own if value.dtype != torch.float16]
    # norms of float16 together would exceed its range
    norms = [torch.linalg.vector_norm(value, dtype=torch.float32) for value in own if value.dtype == torch.float16]
    norms += [nn.utils.get_total_norm(wide).float()] if wide else []
    return not norms or bool(torch.stack(norms).isfinite().all())


def _describe_step(loss: Tensor | None, samples: Any) -> str:
    """The ranks whose loss is not finite; all ranks where every loss is finite and only a gradient is not."""
    every = gather_objects((math.nan if loss is None else float(loss), samples))
    wrong = {rank: summary for rank, summary in enumerate(every) if not math.isfinite(summary[0])} or dict(
        enumerate(every)
    )
    parts = (
        f"{value:g} on samples {ids}" + (f" (rank {rank})" if len(every) > 1 else "")
        for rank, (value, ids) in wrong.items()
    )
    return f"the loss is {', '.join(parts)}, and its gradient is not finite"


class NonFiniteGuard:
    """policy: of those above.  limit: such steps in a row that are borne.  folder: of the run's checkpoints."""

    def __init__(self, *, policy: str = "raise", limit: int = 10, folder: Path | None = None) -> None:
        if policy not in POLICIES:
            raise UserError(f"nonfinite={policy}: choose from {', '.join(POLICIES)}")
        self.policy, self.limit, self.folder = policy, limit, folder
        self.in_a_row, self.skipped = 0, 0
        self._buffers: list[Tensor] = []

    def before_step(self, module: nn.Module) -> None:
        """Keeps what a forward pass changes: queues, running statistics, counters."""
        if self.policy == "skip":
            self._buffers = [buffer.clone() for buffer in module.buffers()]

    def check(self, module: L.LightningModule, gradients: Sequence[Tensor], samples: Any, loss: Tensor | None) -> bool:
        """Whether the optimiser may step.  Raises NotFinite."""
        right = all_finite(gradients)
        if any(isinstance(gradient, DTensor) for gradient in gradients):  # each process holds some of the rows
            right = not sum_over_ranks(torch.tensor(float(not right), device=module.device))
        if right:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.skipped += 1
        said = f"{_describe_step(loss, samples)}, at step {module.global_step}"
        if self.policy == "raise" or self.in_a_row > self.limit:
            tried = "" if self.policy == "raise" else f", the {self.in_a_row}th in a row"
            raise NotFinite(
                f"{said}{tried}: lower optimizer.lr, raise schedule.warmup, set trainer.gradient_clip_val=1, or bear it with "
                "nonfinite=skip or nonfinite=rollback"
            )
        if self.policy == "skip":
            for buffer, kept in zip(module.buffers(), self._buffers, strict=True):
                buffer.copy_(kept)
        else:
            self._roll_back(module)
        if module.global_rank == 0:
            done = "the step is left out" if self.policy == "skip" else "back to the last checkpoint's weights"
            print(f"warning: {said}: {done}", flush=True)
        return False

    def _roll_back(self, module: L.LightningModule) -> None:
        path = newest_checkpoint(self.folder)[0] if self.folder is not None else None
        if path is None:
            raise NotFinite(
                f"the loss is not finite at step {module.global_step} and there is no checkpoint to roll back to yet: set "
                "callbacks.checkpoint.every_n_train_steps, or nonfinite=skip"
            )
        content, trainer = read_checkpoint(path), module.trainer
        module.load_state_dict(content["state_dict"])
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_load_checkpoint(trainer, module, content)
        trainer.strategy.load_optimizer_state_dict(content)
        schedules = trainer.lr_scheduler_configs
        for schedule in schedules:  # the optimiser's state brought the learning rates of the checkpoint's step
            scheduler: Any = schedule.scheduler
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
