"""The only user of collectives. On one process every function is the identity.

Gradients are exact under DistributedDataParallel, which averages them over the ranks: `gather` sums in its backward,
so a loss that every rank computes from gathered features, or each rank for its own rows, has the gradient of one
process on the joined batch (tests/test_distributed.py compares every parameter).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlp.system.compat.torch import prefix_rendezvous_stores


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def forget_earlier_attempts() -> None:
    """Before there is a process group. Processes that torchrun starts again meet in the store of the first attempt, and gloo
    would look for the ranks at the addresses that it finds there (torch 2.14; it hangs, or is refused): each attempt gets
    names of its own."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0":
        return
    prefix_rendezvous_stores(f"attempt_{attempt}")


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def row_counts(x: Tensor) -> list[int]:
    """How many rows `x` has on each rank."""
    if world_size() == 1:
        return [len(x)]
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    return [int(count) for count in counts]


def _gather(x: Tensor, counts: list[int]) -> Tensor:
    # gloo aborts the process on unequal shapes, so every rank sends as many rows as the longest one has
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return _gather(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, with gradient; ranks may have different numbers of rows, also none."""
    if world_size() == 1:
        return x
    counts = row_counts(x)
    return _Gather.apply(x, counts) if x.requires_grad else _gather(x.detach(), counts)


def _exchange(x: Tensor, give: list[int], take: list[int]) -> Tensor:
    """Consecutive shares of `x` to ranks 0, 1, …; what they gave, in rank order."""
    received = x.new_empty(sum(take), *x.shape[1:])
    dist.all_to_all_single(received, x.contiguous(), take, give)
    return received


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, counts: list[int]) -> Tensor:
        starts = torch.tensor([0, *counts], device=index.device).cumsum(0)
        owner = torch.bucketize(index, starts[1:], right=True)
        order = owner.argsort(stable=True)
        take = torch.bincount(owner, minlength=len(counts))
        give = torch.empty_like(take)
        dist.all_to_all_single(give, take)
        ctx.take, ctx.give, ctx.order, ctx.rows = take.tolist(), give.tolist(), order, len(x)
        ctx.asked = _exchange((index - starts[owner])[order], ctx.take, ctx.give)
        rows = _exchange(x[ctx.asked], ctx.give, ctx.take)
        return torch.empty_like(rows).index_copy_(0, order, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = _exchange(gradients[0][ctx.order], ctx.take, ctx.give)
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_add_(0, ctx.asked, gradient), None, None


def fetch(x: Tensor, index: Int[Tensor, " n"]) -> Tensor:
    """`gather(x)[index]` with gradient, but only the chosen rows travel; ranks may ask for different numbers of rows."""
    if world_size() == 1:
        return x.index_select(0, index)
    return _Fetch.apply(x, index, row_counts(x))


def offset(x: Tensor) -> int:
    """Where this rank's rows of `x` start in `gather(x)`."""
    return sum(row_counts(x)[: rank()])


def total(x: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Every rank's tensors become those of rank 0, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def joint_mean(own_sum: Float[Tensor, ""], count: int | Tensor) -> Float[Tensor, ""]:
    """The mean over the rows of all ranks of what each rank summed over its own.

    Its value is the same on every rank; its gradient is this rank's share, times the world size that
    DistributedDataParallel divides by. The mean of no rows is 0.
    """
    if world_size() == 1:
        return own_sum / max(count, 1)  # type: ignore[call-overload]
    both = total(torch.stack([own_sum.detach(), torch.as_tensor(count, dtype=own_sum.dtype, device=own_sum.device)]))
    rows = both[1].clamp(min=1)
    share = own_sum * (world_size() / rows)
    return share + (both[0] / rows - share).detach()


def gather_objects(value: Any) -> list[Any]:
    """Any picklable value of every rank, in rank order (file names, texts); for small things, at the end of an epoch."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_lists(values: Sequence[Any]) -> list[Any]:
    """The lists of all ranks, one after another in rank order."""
    return list(chain.from_iterable(gather_objects(list(values))))
