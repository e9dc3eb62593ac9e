"""Batch norms on several processes: statistics of the complete batch, on CPUs too, and the names of layers that lack them.

A batch norm whose statistics are those of its process's own rows makes several processes train another model than one
(Ioffe and Szegedy, arXiv:1502.03167, algorithm 1, is of the complete batch). torch's SyncBatchNorm runs on accelerators alone.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.distributed import sum_with_gradient, world_size
from vlp.system.compat.torch import BATCH_NORMS


class SyncedStatistics(nn.Module):
    """Mixed into a batch norm; on one process and in evaluation it is that batch norm."""

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b c *space"]:
        if not self.training or world_size() == 1:
            return super().forward(x)  # type: ignore[misc, no-any-return]
        norm: nn.BatchNorm2d = self  # type: ignore[assignment]
        rows = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x if x.dtype == torch.float64 else x.float()
        own_count = wide.new_tensor([wide.numel() / wide.shape[1]])
        total = sum_with_gradient(torch.cat([wide.sum(rows), own_count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centered = wide - mean.view(shape)
        variance = sum_with_gradient(centered.square().sum(rows)) / count
        if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
            with torch.no_grad():
                norm.num_batches_tracked.add_(1)
                share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
                norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var.dtype), share)
        result = centered * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            result = result * norm.weight.view(shape) + norm.bias.view(shape)
        return result.to(x.dtype)


class SyncedBatchNorm1d(SyncedStatistics, nn.BatchNorm1d):
    pass


class SyncedBatchNorm2d(SyncedStatistics, nn.BatchNorm2d):
    pass


class SyncedBatchNorm3d(SyncedStatistics, nn.BatchNorm3d):
    pass


SYNCED: dict[type[nn.Module], Any] = {
    nn.BatchNorm1d: SyncedBatchNorm1d,
    nn.BatchNorm2d: SyncedBatchNorm2d,
    nn.BatchNorm3d: SyncedBatchNorm3d,
}


def synchronize_batch_norms(module: nn.Module, *, on_gpu: bool) -> None:
    """All batch norms of exactly torch's classes; names in `state_dict` stay. On GPUs they become torch's SyncBatchNorm.

    Subclasses stay as they are: to exchange one would lose what it adds, such as the activation in timm's BatchNormAct2d.
    """
    convert = nn.SyncBatchNorm.convert_sync_batchnorm if on_gpu else _synchronized
    replaced: dict[int, nn.Module] = {}
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if id(part) in replaced or type(part) in SYNCED:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, replaced.setdefault(id(part), convert(part)))


def _synchronized(norm: Any) -> nn.Module:
    """With the parameters and statistics themselves, not copies of them."""
    new: Any = SYNCED[type(norm)](norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)  # type: ignore[no-any-return]


def unsynchronized_batch_norms(module: nn.Module) -> list[str]:
    """Names of the batch norms in training mode whose statistics are of each process's own rows."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, BATCH_NORMS)
        and part.training
        and not isinstance(part, (nn.SyncBatchNorm, SyncedStatistics))
    ]


def describe_unsynchronized(names: list[str], synchronized: bool) -> str:
    """synchronized: whether `trainer.sync_batchnorm` is set."""
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    subject = f"{len(names)} batch norm layers compute" if len(names) > 1 else "1 batch norm layer computes"
    fix = (
        "they are of a class of their own, which trainer.sync_batchnorm leaves as it is: choose a model without batch norms"
        if synchronized
        else "set trainer.sync_batchnorm=true"
    )
    return f"{subject} statistics of each process's own rows ({listed}): several processes train another model than one; {fix}"
