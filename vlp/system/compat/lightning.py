"""What vlp needs of Lightning beyond its public names. tests/system/compat/test_lightning.py states what each one has to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from subprocess import Popen

import lightning as L
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.optim import Optimizer

# ------------------------------------------------------------------------------------------------- the training loop


class _EnteredFitLoop(_FitLoop):
    @property
    def skip(self) -> bool:
        return self.trainer.limit_train_batches == 0


def enter_fit_loop_always(trainer: L.Trainer) -> None:
    """`trainer.fit` runs its hooks also where no step is left.

    Lightning skips all of training then, also a validation that was interrupted after the last step, and the averaged weights'
    taking their place at the end. The loop gets a class whose `skip` looks only at `limit_train_batches`; `_FitLoop` has no
    public name, and a trainer no argument for its loop.
    """
    trainer.fit_loop.__class__ = _EnteredFitLoop


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """The step number under which Lightning logs figures and monitors learning rates (`_batches_that_stepped`).

    Lightning counts some resumptions as a step; the figures of a resumed run would be one step late.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


# ------------------------------------------------------------------------------------------------ signals and processes


def remove_signal_handling(trainer: L.Trainer) -> None:
    """Lightning installs no handlers of signals and exchanges none between ranks.

    Its own run a collective inside the handler, which hangs when one rank alone is signalled, and end the process with code 0.
    Replaces two methods of this trainer: `_signal_connector.register_signal_handlers`, `epoch_loop._broadcast_sigterm_tensor`.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def observe_child_processes(observe: Callable[[Sequence[Popen[bytes]]], None]) -> None:
    """From now on `observe(children)` is called when rank 0 has started the other ranks; it must not block.

    Lightning's own observer, which this replaces (`_launch_process_observer`), kills rank 0 within seconds after another rank
    has failed: before it has said why.
    """
    subprocess_script._launch_process_observer = lambda child_processes: observe(child_processes)


def process_group_timeout(strategy: Strategy) -> timedelta | None:
    """How long the strategy lets a collective wait; None for a strategy of one process. Kept in the private `_timeout`."""
    return getattr(strategy, "_timeout", None)


# ----------------------------------------------------------------------------------------------------------- strategies


class ShardingStrategy(ModelParallelStrategy):
    """ModelParallelStrategy where every process holds a part of the weights, with public names for what a subclass needs.

    Lightning divides the processes into tensor-parallel groups unless both sizes are given before the devices are known, makes
    a device mesh again in each of fit and test, and has public names for none of it.
    """

    def setup_environment(self) -> None:
        """Divides over all processes. From fit to test the processes and their mesh stay."""
        if self._device_mesh is None:
            self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
            super().setup_environment()
        else:
            Strategy.setup_environment(self)

    @property
    def saves_shards(self) -> bool:
        """Whether a checkpoint is a folder with a file of each process (the argument `save_distributed_checkpoint`)."""
        return self._save_distributed_checkpoint

    def synchronize_layers(self, module: L.LightningModule) -> None:
        """The trainer's `sync_batchnorm`, if it was asked for; the parent does it in a `setup` of its own."""
        if self._layer_sync is not None:
            self._layer_sync.apply(module)

    def optimizers_to_device(self) -> None:
        """Moves the optimisers' states to this process's device."""
        _optimizers_to_device(self.optimizers, self.root_device)


def unwrap_optimizer(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    """The torch optimiser inside Lightning's wrapper."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


# -------------------------------------------------------------------------------------------------------------- loggers


def drop_wandb_argument(logger: WandbLogger, name: str) -> None:
    """`wandb.init` is called without the argument. Lightning always passes `anonymous` on, of which wandb warns that it has no
    effect; the arguments are in the private `_wandb_init`."""
    logger._wandb_init.pop(name, None)
