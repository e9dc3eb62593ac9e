"""What a training step leaves, for tests that two processes equal one."""

from __future__ import annotations

import torch

from vlp.structures import Batch


def gradients(step: torch.nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    """The loss and each parameter's gradient; a module that is wrapped for several processes has the names of the one inside."""
    loss = step(batch)
    loss.backward()
    return {"loss": loss.detach()} | {name.removeprefix("module."): p.grad for name, p in step.named_parameters()}
