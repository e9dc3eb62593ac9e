"""Runs a function in real gloo processes and returns what each of them returned."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _start(
    rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...], out: Path
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        torch.save(function(rank, world, *arguments), out / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()


def run_processes(world: int, function: Callable[..., Any], out: Path, *arguments: Any) -> list[Any]:
    """`function(rank, world, *arguments)` in `world` processes; its results (tensors, numbers, containers) in rank order."""
    out.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(_start, (world, free_port(), function, arguments, out), nprocs=world)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(world)]
