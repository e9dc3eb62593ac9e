"""What vlp needs of torch beyond its public names. tests/system/compat/test_torch.py states what each one has to do."""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # their common class is private


# ---------------------------------------------------------------------------------------------------- several processes


def prefix_rendezvous_stores(prefix: str) -> None:
    """From now on `init_process_group(init_method="env://")` keeps its entries under `prefix` in the store where processes meet.

    Replaces `torch.distributed.rendezvous._create_c10d_store`: Lightning creates the process group, so a store of our own
    cannot be handed over. Without it, processes that torchrun starts again meet the addresses of the first attempt, and hang.
    """
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")  # its name is a function's, too
    original = rendezvous._create_c10d_store

    def create(*arguments: Any, **settings: Any) -> dist.Store:
        return dist.PrefixStore(prefix, original(*arguments, **settings))

    rendezvous._create_c10d_store = create


def default_store() -> dist.Store:
    """The store of the default process group, where ranks may leave notes for each other without a collective. There is no
    public way to the store that Lightning's process group made. Raises ValueError before there is a group."""
    return distributed_c10d._get_default_store()


def lost_connection(error: BaseException) -> bool:
    """Whether a collective failed since another process is gone. The store has a type for it; gloo and NCCL raise a RuntimeError
    whose text alone says so: `Connection closed by peer`, `remote process exited or there was a network error`."""
    if isinstance(error, (dist.DistNetworkError, ConnectionError)):
        return True
    words = ("onnection", "remote process exited")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


# --------------------------------------------------------------------------------------------------------- data workers


def data_worker_died(error: BaseException) -> bool:
    """Whether a DataLoader's worker process ended: torch raises a RuntimeError that only its text distinguishes
    from others, wherever the main thread happens to be."""
    return (
        isinstance(error, RuntimeError)
        and "DataLoader worker (pid" in str(error)
        and any(words in str(error) for words in ("exited unexpectedly", "killed by signal"))
    )


def data_loader_timed_out(error: BaseException) -> bool:
    """Whether no batch came within a DataLoader's `timeout`; a RuntimeError that only its text tells from others."""
    return isinstance(error, RuntimeError) and "DataLoader timed out" in str(error)


def shared_memory_full(error: BaseException, exit_codes: Sequence[int | None] = ()) -> bool:
    """Whether a tensor found no room in /dev/shm: torch raises a RuntimeError with the system's words in the worker, or the system
    ends the worker by SIGBUS, which the main process learns from its text or from the exit code, as it happens."""
    written = os.strerror(errno.ENOSPC) in str(error) or "out of shared memory" in str(error)
    return written or -signal.SIGBUS in exit_codes


def worker_error_message(error: BaseException) -> str | None:
    """What an exception said in the data worker that raised it; None where it comes from no worker.

    torch raises it again in this process with the same type, but with the worker's traceback as its text.
    """
    text = str(error).rstrip()
    if " in DataLoader worker process " not in text.partition("\n")[0]:
        return None
    kind = type(error)
    marks = (f"\n{kind.__module__}.{kind.__qualname__}: ", f"\n{kind.__qualname__}: ")
    return next((text.rpartition(mark)[2] for mark in marks if mark in text), None)


def worker_exit_codes(iterator: Iterator[Any]) -> list[int | None]:
    """Exit codes of a DataLoader iterator's workers, None for those that run; empty without workers.

    The processes are in the private `_workers`; without them a full /dev/shm is reported as too little memory.
    """
    return [worker.exitcode for worker in getattr(iterator, "_workers", ())]


# ---------------------------------------------------------------------------------------------- modules and optimisers


def local_part(tensor: Tensor) -> Tensor:
    """The rows of a sharded tensor that this process holds; any other tensor as it is. Without gradient."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def unscale_before_step(optimizer: Optimizer) -> None:
    """A fused optimiser offers to unscale gradients itself, and Lightning then refuses to clip them in mixed precision.

    `_step_supports_amp_scaling` is that offer; it is withdrawn, so the scaler unscales before the step.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 [r d] × int8 [d e] → int32, by the processor's instructions for it; torch's only product of them is `_int_mm`."""
    return torch._int_mm(a, b)


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called; torch keeps the compiled call in `_compiled_call_impl` and says it nowhere else."""
    return module._compiled_call_impl is not None


def initialize_fsdp(module: Any) -> None:
    """Make a fully sharded module the root of those inside it, before any of them runs.

    FSDP2 does so in the first forward; in an evaluation a block runs first, which would become a root of its own, and the module
    around it then refuses to run. There is no public call for it.
    """
    module._get_fsdp_state()._lazy_init()


def scalars_to_rows(module: nn.Module) -> set[str]:
    """Store each parameter without dimensions as one of shape [1], which FSDP2 can divide; code that reads the attribute still
    sees a number. Returns the names of these parameters.

    The attribute becomes a property of a class made for the module, as `nn.Module` has no hook for reading a parameter; the
    parameter itself stays in `_parameters`, where FSDP2 replaces it and `state_dict` finds it.
    """
    names = {name for name, p in module.named_parameters(remove_duplicate=False) if p.ndim == 0}
    rows: dict[int, nn.Parameter] = {}  # a shared one stays shared
    for part in module.modules():
        scalars = [name for name, p in part._parameters.items() if p is not None and p.ndim == 0]
        for name in scalars:
            scalar: Any = part._parameters[name]
            row = nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad)
            part._parameters[name] = rows.setdefault(id(scalar), row)
        if scalars:
            kind = type(part)
            part.__class__ = type(kind.__name__, (kind,), {name: property(_reader(name)) for name in scalars})
    return names


def _reader(name: str) -> Any:
    def read(part: nn.Module) -> Tensor:
        row: Any = part._parameters[name]
        # a divided one can be changed in place only as it is
        return row if isinstance(row, DTensor) else row.reshape(())

    return read
