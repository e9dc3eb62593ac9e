from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from tests.system.compat.contract import Contract, broken
from vlp.system.compat import lightning as compat


def trainer() -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


STRATEGY = "lightning.pytorch.strategies"
LOOP = "lightning.pytorch.loops.fit_loop"
RESUME = "resume a run at the same step, epoch and logged step"
CONTRACTS = [
    Contract(
        name=f"{LOOP}:_FitLoop.skip",
        needed="run an interrupted last validation, and take averaged weights, when no step is left",
        used_in="lightning.enter_fit_loop_always()",
    ),
    Contract(
        name="lightning:fit_loop.epoch_loop._batches_that_stepped",
        needed="log figures of a resumed run under their own steps",
        used_in="lightning.set_logged_step()",
        on=trainer,
    ),
    Contract(
        name="lightning:_signal_connector.register_signal_handlers",
        needed="write a checkpoint on SIGTERM between two steps instead of inside a handler",
        used_in="lightning.remove_signal_handling()",
        on=trainer,
        parameters=(),
    ),
    Contract(
        name="lightning:fit_loop.epoch_loop._broadcast_sigterm_tensor",
        needed="agree on a signal between ranks by vlp's own collective alone",
        used_in="lightning.remove_signal_handling()",
        on=trainer,
        parameters=(),
    ),
    Contract(
        name="lightning.fabric.strategies.launchers.subprocess_script:_launch_process_observer",
        needed="let rank 0 say why it ends before it is killed",
        used_in="lightning.observe_child_processes()",
        parameters=("child_processes",),
    ),
    Contract(
        name=f"{STRATEGY}:_timeout",
        needed="give its own process group the timeout of the strategy's",
        used_in="lightning.process_group_timeout()",
        on=DDPStrategy,
    ),
    *(
        Contract(
            name=f"{STRATEGY}:{name}",
            needed="divide the model over all processes with trainer=fsdp",
            used_in="lightning.ShardingStrategy",
            on=ModelParallelStrategy,
        )
        for name in (
            "_device_mesh",
            "_data_parallel_size",
            "_tensor_parallel_size",
            "_layer_sync",
            "_save_distributed_checkpoint",
        )
    ),
    Contract(
        name="lightning.fabric.utilities.optimizer:_optimizers_to_device",
        needed="move optimiser states to the accelerator with trainer=fsdp",
        used_in="lightning.ShardingStrategy.optimizers_to_device()",
        parameters=("optimizers", "device"),
    ),
    Contract(
        name="lightning.pytorch.core.optimizer:LightningOptimizer.optimizer",
        needed="read the optimiser's state with trainer=fsdp",
        used_in="lightning.unwrap_optimizer()",
    ),
    Contract(
        name="lightning.pytorch.loggers:_wandb_init",
        needed="keep W&B from warning about an argument that has no effect",
        used_in="lightning.drop_wandb_argument()",
        on=lambda: WandbLogger(mode="disabled"),
    ),
    *(
        Contract(
            name=f"lightning:{name}",
            needed=RESUME,
            used_in="no function, but vlp/training/lifecycle/restart.py",
            on=trainer,
        )
        for name in (
            "fit_loop.epoch_progress.current.processed",
            "fit_loop.epoch_loop.batch_progress.current.ready",
            "fit_loop.epoch_loop.batch_progress.is_last_batch",
            "fit_loop.epoch_loop.val_loop.batch_progress.total.completed",
        )
    ),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


def test_counters_in_a_checkpoint() -> None:
    """vlp/training/lifecycle/restart.py changes them by these names, in every checkpoint that was ever written."""
    state = trainer().fit_loop.state_dict()
    assert {"epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"} <= state.keys()
    assert set(state["epoch_progress"]["current"]) == {"ready", "started", "processed", "completed"}
    assert state["epoch_loop.batch_progress"].keys() == {"total", "current", "is_last_batch"}


class Fitted(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.started = 0

    def on_train_start(self) -> None:
        self.started += 1

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("always", [True, False])
def test_the_fit_loop_is_entered_without_steps_left(always: bool) -> None:
    module = Fitted()
    fitting = L.Trainer(
        accelerator="cpu", max_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    if always:
        compat.enter_fit_loop_always(fitting)
    fitting.fit(module, torch.utils.data.DataLoader([0]))
    assert module.started == always
    assert fitting.global_step == 0


def test_no_signal_handlers() -> None:
    ours = trainer()
    compat.remove_signal_handling(ours)
    before = signal.getsignal(signal.SIGTERM)
    ours._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before


def test_observer_of_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", None)
    seen: list[Any] = []
    compat.observe_child_processes(seen.append)
    subprocess_script._launch_process_observer(child_processes=[1])
    subprocess_script._launch_process_observer([2])
    assert seen == [[1], [2]]
    source = Path(subprocess_script.__file__).read_text(encoding="utf-8")
    assert "\n            _launch_process_observer(" in source, "Lightning does not call it by its global name any more"


def test_timeout_of_a_strategy() -> None:
    assert compat.process_group_timeout(DDPStrategy(timeout=timedelta(seconds=7))) == timedelta(seconds=7)
    assert compat.process_group_timeout(SingleDeviceStrategy(torch.device("cpu"))) is None


def test_sharding_strategy() -> None:
    assert compat.ShardingStrategy(save_distributed_checkpoint=True).saves_shards
    assert not compat.ShardingStrategy(save_distributed_checkpoint=False).saves_shards


def test_unwrapped_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    assert compat.unwrap_optimizer(LightningOptimizer(optimizer)) is optimizer
    assert compat.unwrap_optimizer(optimizer) is optimizer


def test_argument_of_wandb() -> None:
    logger = WandbLogger(mode="disabled", project="vlp")
    compat.drop_wandb_argument(logger, "anonymous")
    compat.drop_wandb_argument(logger, "anonymous")  # also when a later Lightning does not pass it on
    assert "anonymous" not in logger._wandb_init
    assert logger._wandb_init["project"] == "vlp"
