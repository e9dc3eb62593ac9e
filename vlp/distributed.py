"""The only module that calls collectives. On one process every function is the identity.

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
from vlp.system.renamed import renamed_attributes

__getattr__ = renamed_attributes(__name__, {"joint_mean": "vlp.distributed.mean_over_ranks"})


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def prefix_rendezvous_by_attempt() -> None:
    """To call before the process group is created.

    Processes that torchrun restarts use the key-value store of the first attempt, where gloo reads addresses of processes
    that have ended (torch 2.14: it hangs, or the connection is refused). So each attempt gets its own key prefix.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt != "0":
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


def _gather_padded(x: Tensor, counts: list[int]) -> Tensor:
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
        return _gather_padded(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        start = sum(ctx.counts[: rank()])
        return summed[start : start + ctx.counts[rank()]], None


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, with gradient; the ranks may have different numbers of rows, including none."""
    if world_size() == 1:
        return x
    counts = row_counts(x)
    return _Gather.apply(x, counts) if x.requires_grad else _gather_padded(x.detach(), counts)


def _exchange_rows(x: Tensor, send_counts: list[int], receive_counts: list[int]) -> Tensor:
    """Sends consecutive rows of `x` to ranks 0, 1, …, and returns the rows received from each, in rank order."""
    received = x.new_empty(sum(receive_counts), *x.shape[1:])
    dist.all_to_all_single(received, x.contiguous(), receive_counts, send_counts)
    return received


class _FetchRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, counts: list[int]) -> Tensor:
        starts = torch.tensor([0, *counts], device=index.device).cumsum(0)
        source_rank = torch.bucketize(index, starts[1:], right=True)
        order = source_rank.argsort(stable=True)
        receive_counts = torch.bincount(source_rank, minlength=len(counts))
        send_counts = torch.empty_like(receive_counts)
        dist.all_to_all_single(send_counts, receive_counts)
        ctx.receive_counts, ctx.send_counts, ctx.order, ctx.rows = (
            receive_counts.tolist(),
            send_counts.tolist(),
            order,
            len(x),
        )
        ctx.requested = _exchange_rows((index - starts[source_rank])[order], ctx.receive_counts, ctx.send_counts)
        rows = _exchange_rows(x[ctx.requested], ctx.send_counts, ctx.receive_counts)
        return torch.empty_like(rows).index_copy_(0, order, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = _exchange_rows(gradients[0][ctx.order], ctx.receive_counts, ctx.send_counts)
        return gradient.new_zeros(ctx.rows, *gradient.shape[1:]).index_add_(0, ctx.requested, gradient), None, None


def fetch(x: Tensor, index: Int[Tensor, " n"]) -> Tensor:
    """`gather(x)[index]` with gradient, but only the chosen rows are sent; each rank may choose any number of rows."""
    if world_size() == 1:
        return x.index_select(0, index)
    return _FetchRows.apply(x, index, row_counts(x))


def row_offset(x: Tensor) -> int:
    """Where this rank's rows of `x` start in `gather(x)`."""
    return sum(row_counts(x)[: rank()])


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0])


def sum_with_gradient(x: Tensor) -> Tensor:
    """Sum over ranks; the gradient is summed over them, too, as each rank's loss depends on the values of all."""
    result: Tensor = _Sum.apply(x) if world_size() > 1 else x
    return result


def broadcast_from_first_rank(tensors: Iterable[Tensor]) -> None:
    """Overwrites every rank's tensors with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def mean_over_ranks(own_sum: Float[Tensor, ""], count: int | Tensor) -> Float[Tensor, ""]:
    """The mean over the rows of all ranks.  own_sum, count: the sum over this rank's rows, and their number.

    Its value is the same on every rank; its gradient is this rank's share, times the world size that
    DistributedDataParallel divides by. The mean of no rows is 0.
    """
    if world_size() == 1:
        return own_sum / max(count, 1)  # type: ignore[call-overload]
    sum_and_count = sum_over_ranks(
        torch.stack([own_sum.detach(), torch.as_tensor(count, dtype=own_sum.dtype, device=own_sum.device)])
    )
    rows = sum_and_count[1].clamp(min=1)
    share = own_sum * (world_size() / rows)
    return share + (sum_and_count[0] / rows - share).detach()


def gather_objects(value: Any) -> list[Any]:
    """Any picklable value of every rank, in rank order; for small values (file names, texts) at the end of an epoch."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_lists(values: Sequence[Any]) -> list[Any]:
    """The lists of all ranks, one after another in rank order."""
    return list(chain.from_iterable(gather_objects(list(values))))
