"""Runs a function in real gloo processes and returns their results."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def _run_rank(
    rank: int, world: int, rendezvous: str, function: Callable[..., Any], arguments: tuple[Any, ...], out: Path
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        torch.save(function(rank, world, *arguments), out / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()


def run_processes(world: int, function: Callable[..., Any], out: Path, *arguments: Any) -> list[Any]:
    """Results of `function(rank, world, *arguments)` in `world` processes, by rank; tensors, numbers and containers of them.
    out: folder for files of the results."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # a file, because a port that is free now may be taken when they connect
        rendezvous = f"file://{folder}/store"
        multiprocessing.spawn(_run_rank, (world, rendezvous, function, arguments, out), nprocs=world)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(world)]
