from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.system.compat.contract import Contract, broken
from vlp.data.issues import DataError
from vlp.system.compat import torch as compat
from vlp.system.errors import UserError

CONTRACTS = [
    Contract(
        name="torch.distributed.rendezvous:_create_c10d_store",
        needed="let torchrun start processes again without the addresses of the first attempt",
        used_in="torch.prefix_rendezvous_stores()",
        parameters=("hostname", "port", "rank", "world_size", "timeout"),
    ),
    Contract(
        name="torch.distributed.distributed_c10d:_get_default_store",
        needed="tell the other ranks of a stop when collectives are not possible any more",
        used_in="torch.default_store()",
        parameters=(),
    ),
    Contract(
        name="torch.utils.data.dataloader:_workers",
        needed="tell a full /dev/shm from too little memory",
        used_in="torch.worker_exit_codes()",
        on=lambda: iter(DataLoader(range(2), num_workers=1)),  # type: ignore[arg-type]
    ),
    Contract(
        name="torch.optim:_step_supports_amp_scaling",
        needed="clip gradients in float16 with a fused optimiser",
        used_in="torch.unscale_before_step()",
        on=lambda: torch.optim.AdamW([torch.zeros(1)], fused=True),
    ),
    Contract(
        name="torch.nn:_compiled_call_impl",
        needed="refuse compile=true with trainer=fsdp",
        used_in="torch.is_compiled()",
        on=lambda: nn.Linear(1, 1),
    ),
    Contract(
        name="torch.distributed.fsdp:FSDPModule._get_fsdp_state",
        needed="evaluate a sharded model before its first training step",
        used_in="torch.initialize_fsdp()",
        parameters=(),
    ),
    Contract(
        name="torch.distributed.fsdp._fully_shard._fsdp_state:FSDPState._lazy_init",
        needed="evaluate a sharded model before its first training step",
        used_in="torch.initialize_fsdp()",
        parameters=(),
    ),
    Contract(
        name="torch.nn:_parameters",
        needed="shard a parameter without dimensions, such as the temperature, with trainer=fsdp",
        used_in="torch.scalars_to_rows()",
        on=lambda: nn.Linear(1, 1),
    ),
    Contract(
        name="torch:_int_mm",
        needed="measure which share of the processor's peak an int8 artifact reaches",
        used_in="torch.int8_product()",
    ),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


# --------------------------------------------------------------------------------------------------------- data workers


class Failing(Dataset[int]):
    """Raises, sleeps, or ends its process at the first sample."""

    def __init__(self, error: Exception | None = None, *, sleep: float = 0.0, number: int = 0) -> None:
        self.error, self.sleep, self.number = error, sleep, number

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if self.error is not None:
            try:
                raise KeyError("first\nValueError: not this")
            except KeyError as cause:
                raise self.error from cause
        if self.number:
            os.kill(os.getpid(), self.number)
        time.sleep(self.sleep)
        return index


def raised(data: Dataset[int], **settings: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is what the tests are about
        next(iter(DataLoader(data, num_workers=1, **settings)))
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        UserError("a/b.jpg: two\nlines: of text"),
        DataError("kind", "a sentence"),
        FileNotFoundError("a.jpg is missing"),
        ValueError("from a library"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_worker_keeps_its_type_and_text(error: Exception) -> None:
    found = raised(Failing(error))
    assert type(found) is type(error)
    assert compat.worker_error_message(found) == str(error)
    assert not compat.data_worker_died(found)
    assert not compat.data_loader_timed_out(found)


def test_an_error_that_no_worker_raised() -> None:
    assert compat.worker_error_message(ValueError("ValueError: x")) is None


def test_a_worker_that_was_killed() -> None:
    found = raised(Failing(number=signal.SIGKILL))
    assert compat.data_worker_died(found), f"torch's words for a lost worker are others now: {found}"
    assert not compat.data_loader_timed_out(found)


def test_a_loader_that_waits_too_long() -> None:
    found = raised(Failing(sleep=20), timeout=0.5)
    assert compat.data_loader_timed_out(found), f"torch's words for a timeout are others now: {found}"
    assert not compat.data_worker_died(found)


def test_a_worker_without_shared_memory() -> None:
    iterator = iter(DataLoader(Failing(number=signal.SIGBUS), num_workers=1))
    with pytest.raises(RuntimeError) as caught:  # which one is what the test is about
        next(iterator)
    assert compat.data_worker_died(caught.value)
    assert compat.shared_memory_full(caught.value, compat.worker_exit_codes(iterator)), caught.value
    assert compat.shared_memory_full(RuntimeError("unable to write to file </torch_1>: No space left on device (28)"))
    assert not compat.shared_memory_full(raised(Failing(number=signal.SIGKILL)))


def test_exit_codes_of_workers() -> None:
    iterator = iter(DataLoader(range(4), num_workers=2))  # type: ignore[arg-type]
    assert compat.worker_exit_codes(iterator) == [None, None]
    assert compat.worker_exit_codes(iter(DataLoader(range(4)))) == []  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- several processes


def _lose_a_rank(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=20))
    dist.all_reduce(torch.ones(1))
    if rank == 1:
        os._exit(0)
    try:
        for _ in range(100):
            dist.all_reduce(torch.ones(1))
    except Exception as error:
        (folder / "seen").write_text(f"{compat.lost_connection(error)} {type(error).__name__}: {error}")
    os._exit(0)  # gloo's threads end a process that has lost another one with an abort


def test_a_lost_rank(tmp_path: Path) -> None:
    mp.spawn(_lose_a_rank, (tmp_path,), nprocs=2)
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith("True"), f"gloo's words for a lost rank are others now: {seen}"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:1"), True),
        (ConnectionResetError("reset"), True),
        (dist.DistNetworkError("the client socket"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("Connection"), False),
    ],
)
def test_what_is_a_lost_connection(error: Exception, lost: bool) -> None:
    assert compat.lost_connection(error) is lost


def test_stores_where_processes_meet_are_prefixed(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")
    original, store = rendezvous._create_c10d_store, dist.HashStore()
    monkeypatch.setattr(rendezvous, "_create_c10d_store", lambda *_, **__: store)
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    compat.prefix_rendezvous_stores("attempt_3")
    found, _, _ = next(rendezvous.rendezvous("env://"))
    found.set("key", "value")
    assert store.get("attempt_3/key") == b"value"
    assert rendezvous._create_c10d_store is not original


def test_the_store_of_a_group() -> None:
    with pytest.raises(ValueError, match="not been initialized"):
        compat.default_store()
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        compat.default_store().set("note", "1")
        assert compat.default_store().check(["note"])
    finally:
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------- modules and optimisers


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))


def test_scalars_are_rows_and_read_as_numbers() -> None:
    module = nn.Sequential(Scaled(), Scaled())
    module[1].scale = module[0].scale
    assert compat.scalars_to_rows(module) == {"0.scale", "1.scale"}
    shapes: Sequence[Any] = [value.shape for value in module.state_dict().values()]
    assert shapes == [(1,), (1,)]
    assert (module[0].scale.shape, module[0].scale.item()) == ((), 2.0)
    assert len(list(module.parameters())) == 1, "a shared parameter stays shared"
    assert isinstance(module[0], Scaled)


def test_a_compiled_module() -> None:
    module = nn.Linear(1, 1)
    assert not compat.is_compiled(module)
    module.compile()
    assert compat.is_compiled(module)


def test_a_fused_optimizer_leaves_unscaling_to_the_scaler() -> None:
    optimizer: Any = torch.optim.AdamW([torch.zeros(1)], fused=True)
    assert optimizer._step_supports_amp_scaling, "nothing to withdraw: torch's fused optimisers do not unscale any more"
    compat.unscale_before_step(optimizer)
    assert not optimizer._step_supports_amp_scaling


def test_local_part_of_a_plain_tensor() -> None:
    value = nn.Parameter(torch.ones(2))
    part = compat.local_part(value)
    assert part.data_ptr() == value.data_ptr()
    assert not part.requires_grad


def test_batch_norms() -> None:
    assert all(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in compat.BATCH_NORMS)
    assert isinstance(nn.SyncBatchNorm(1), compat.BATCH_NORMS)
    assert not isinstance(nn.GroupNorm(1, 1), compat.BATCH_NORMS)
