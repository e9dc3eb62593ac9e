"""A watch for those who debug training on several processes: the weights must be equal on all of them, bit by bit.

DistributedDataParallel averages gradients and then trusts that every rank makes the same step of them. What breaks that (a
seed of one rank's own, a parameter changed by hand, a step that one rank leaves out) shows in no loss at first.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from vlp.distributed import gather, world_size
from vlp.system.compat.torch import BATCH_NORMS
from vlp.system.errors import UserError
from vlp.training.batch_norm import SyncedStatistics


class RanksDisagree(UserError, ArithmeticError):
    """The copies of the weights on different ranks are not equal any more."""


class RanksAgree(Callback):
    """every_n_steps: optimiser steps between two looks, each of which reads all weights and queues once."""

    def __init__(self, *, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise UserError(f"callbacks.ranks_agree.every_n_steps={every_n_steps}: give a whole number above 0")
        self.every_n_steps = every_n_steps
        self._looked_at = -1  # the last step, of which there may be several batches

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._compare_ranks(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._looked_at:
            self._compare_ranks(trainer, pl_module)

    def _compare_ranks(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._looked_at = trainer.global_step
        if world_size() == 1:
            return
        named = tensors_to_compare(module)
        own = torch.stack([fingerprint(value) for value in named.values()]).to(module.device)
        differing = find_disagreement(gather(own[None]), list(named))
        if differing is not None:
            raise RanksDisagree(
                f"after step {trainer.global_step} {differing}: every rank has to make the same step from the same "
                "gradients; look for randomness, or for a choice, that depends on the rank"
            )


def tensors_to_compare(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, but for the running statistics of batch norms: those are of each rank's own share, until
    DistributedDataParallel replaces them by rank 0's at the next forward pass."""
    own = {
        f"{name}.{key}"
        for name, part in module.named_modules()
        if isinstance(part, BATCH_NORMS) and not isinstance(part, (nn.SyncBatchNorm, SyncedStatistics))
        for key, _ in part.named_buffers()
    }
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value for name, value in named.items() if name not in own}


@torch.no_grad()
def fingerprint(value: Tensor) -> Tensor:
    """An integer that changes when any bit does, or the place of one: the bytes, times odd numbers that depend on the place."""
    data = value.detach().contiguous().flatten().view(torch.uint8).long()
    place = torch.arange(len(data), device=data.device)
    # xor of the place's own bits keeps the sum of two swapped bytes from being the same; integers wrap around
    odd = (place * -7046029254386353131) ^ (place >> 7) | 1
    return ((data + 1) * odd).sum()


def find_disagreement(fingerprints: Tensor, names: list[str]) -> str | None:
    """Of [rank, parameter]: which is the first that is not equal everywhere, and on which ranks it is not that of most."""
    unequal = (fingerprints != fingerprints[:1]).any(0).nonzero()[:, 0].tolist()
    if not unequal:
        return None
    found = fingerprints[:, unequal[0]].tolist()
    most, times = Counter(found).most_common(1)[0]
    odd = [rank for rank, value in enumerate(found) if value != most]
    # of two ranks, or of as many as there are on the other side, nobody can say which is right
    ranks = odd if times > len(found) / 2 else list(range(len(found)))
    rank_names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    how = "differs on" if len(ranks) == 1 else "differs between"
    more = f" (and {len(unequal) - 1} more)" if len(unequal) > 1 else ""
    return f"{names[unequal[0]]}{more} {how} {rank_names}"
