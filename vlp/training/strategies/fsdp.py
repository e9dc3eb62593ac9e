"""FSDP2 under Lightning: each process keeps its share of the rows of weights, gradients and optimiser state.

A step computes what DistributedDataParallel computes; each block of the model is gathered for its forward and its
backward, everything outside of blocks for the whole step. Evaluation gathers the whole model once, since processes may
have different numbers of batches. A checkpoint is the same file that one process would write, unless shards are asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vlp.checkpoints import sharded
from vlp.distributed import broadcast_from_first_rank, gather_objects
from vlp.system.compat.lightning import ShardingStrategy, unwrap_optimizer
from vlp.system.compat.torch import BATCH_NORMS, initialize_fsdp, is_compiled, scalars_to_rows
from vlp.system.errors import UserError
from vlp.training.lifecycle.checkpoint_files import publish_folder, write_shard
from vlp.training.optimizer import CombinedOptimizer
from vlp.training.resumed_settings import with_own_settings
from vlp.training.strategies.sharding import block_units, local_rows


class FSDP(ShardingStrategy):
    """save_distributed_checkpoint: a folder with one file of each process in place of one file; `vlp convert FOLDER FILE
    --to vlp` makes it one.  process_group_backend: None = nccl on GPUs, gloo on CPUs.
    timeout: seconds until processes that wait for a lost one give up.
    bfloat16_blocks: blocks are gathered and computed in bfloat16 altogether, norms and sums included (gradients are still
    averaged in float32). Half of what travels; under autocast alone blocks compute what they compute with other trainers.
    """

    def __init__(
        self,
        *,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: float = 1800.0,
        bfloat16_blocks: bool = False,
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout),
        )
        self.bfloat16_blocks = bfloat16_blocks
        self._scalars: set[str] = set()

    @property
    def module(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _sharded_modules(self) -> list[Any]:
        """The root first."""
        return [part for part in self.module.modules() if isinstance(part, FSDPModule)]

    # ------------------------------------------------------------------- start

    def setup(self, trainer: L.Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if not isinstance(self.module, FSDPModule):
            refuse_unsupported(trainer, self.module)
            self.synchronize_layers(self.module)
            self.precision_plugin.convert_module(self.module)
            self.model_to_device()
            self._shard()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            if any(isinstance(optimizer, CombinedOptimizer) for optimizer in self.optimizers):
                raise UserError(
                    "trainer=fsdp: optimizer=muon works on whole matrices, of which each process holds some rows: "
                    "choose optimizer=adamw, or trainer=ddp"
                )
        self.setup_precision_plugin()
        if trainer.state.fn == TrainerFn.FITTING:
            self.optimizers_to_device()

    def _shard(self) -> None:
        module, mesh = self.module, self.device_mesh["data_parallel"]
        broadcast_from_first_rank([*module.parameters(), *module.buffers()])
        self._scalars = scalars_to_rows(module)
        halved = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
        for unit in block_units(module):
            normed = any(isinstance(part, BATCH_NORMS) for part in unit.modules())
            fully_shard(
                unit, mesh=mesh, mp_policy=halved if self.bfloat16_blocks and not normed else MixedPrecisionPolicy()
            )
        fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(module, "training_step")
        initialize_fsdp(module)  # else the block that runs first, in an evaluation, would be the root
        if torch.distributed.get_backend() == "gloo":  # which sums but does not average
            for part in self._sharded_modules:
                part.set_force_sum_reduction_for_comms(True)
        module.register_load_state_dict_pre_hook(self._scatter_state)

    # ------------------------------------------------------------- computation

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self._broadcast_statistics()
        return super().training_step(*args, **kwargs)

    def _broadcast_statistics(self) -> None:
        """Of batch norms: the first process's, as under DistributedDataParallel."""
        norms = [part for part in self.module.modules() if isinstance(part, BATCH_NORMS)]
        broadcast_from_first_rank([buffer for norm in norms for buffer in norm.buffers(recurse=False)])

    def on_validation_start(self) -> None:
        self._gather()

    def on_validation_end(self) -> None:
        self._reshard()

    def on_test_start(self) -> None:
        self._gather()

    def on_test_end(self) -> None:
        self._reshard()

    def _gather(self) -> None:
        """All that evaluation uses, until `_reshard`: from now on a forward waits for no other process."""
        self._broadcast_statistics()
        momentum = getattr(self.module, "momentum", None)
        slow = set() if momentum is None else set(momentum.modules())
        for part in self._sharded_modules:
            if part not in slow:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()

    def _reshard(self) -> None:
        root = self.module
        for part in self._sharded_modules:
            part.set_reshard_after_forward(part is not root, recurse=False)
            part.reshard()

    # ------------------------------------------------------------- checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def _to_stored(self, value: Any, scalar: bool) -> Any:
        """A tensor as it goes to the file: whole, or this process's rows of it."""
        if not isinstance(value, DTensor):
            return value
        shape: Any = () if scalar else value.shape
        if self.saves_shards:
            return sharded.row_slice(value.to_local().detach().cpu().clone(), tuple(shape))
        full_value = value.full_tensor().detach()
        return full_value.cpu().reshape(shape) if self.is_global_zero else None

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the first process, nothing on others; or each process's rows."""
        state = {name: self._to_stored(v, name in self._scalars) for name, v in self.module.state_dict().items()}
        return state if self.saves_shards or self.is_global_zero else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Under the numbers that the optimiser itself gives to parameters, so a run may continue under another strategy."""
        optimizer = unwrap_optimizer(optimizer)
        state, parameters = optimizer.state_dict(), _parameters(optimizer)
        named = dict(self.module.named_parameters())
        scalars = {id(named[name]) for name in self._scalars if name in named}
        kept = {
            index: {key: self._to_stored(value, id(parameters[index]) in scalars) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return state | {"state": kept} if self.saves_shards or self.is_global_zero else {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(self.broadcast(filepath))
        if not self.saves_shards:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)
            return
        unfinished = path.with_name(f".{path.name}.tmp-unfinished")
        if self.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self.barrier()
        own = checkpoint
        if not self.is_global_zero:
            own = {key: checkpoint[key] for key in ("state_dict", "optimizer_states") if key in checkpoint}
        error = write_shard(unfinished, own, rank=self.global_rank, processes=self.world_size)
        if any(gather_objects(error is not None)):  # a full disk of one of them: what was there stays
            self.checkpoint_io.error = error or OSError("another process could not write its shard")  # type: ignore[attr-defined]
        elif self.is_global_zero:
            publish_folder(unfinished, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        return (
            sharded.read(path)
            if sharded.is_sharded(path)
            else self.checkpoint_io.load_checkpoint(path, weights_only=True)
        )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self.module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters, stored = _parameters(optimizer), with_own_settings(optimizer, content)
            state = {
                index: {k: v if k == "step" else local_rows(v, parameters[index]) for k, v in entry.items()}
                for index, entry in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})

    def _scatter_state(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Before any `load_state_dict` of the whole module: of whole tensors each process takes its rows."""
        for part in self._sharded_modules:
            part.reshard()
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if prefix + name in state and isinstance(state[prefix + name], Tensor):
                value = state[prefix + name]
                if value.shape == parameter.shape or (name in self._scalars and value.numel() == 1):
                    state[prefix + name] = local_rows(value, parameter)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def refuse_unsupported(trainer: L.Trainer, module: Any) -> None:
    """What would compute something else than one process does, or nothing."""
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, WeightAveraging):
            raise UserError(
                "trainer=fsdp: callbacks.ema averages a whole copy of the weights, which no process has here: leave ema out "
                "of callbacks, or choose trainer=ddp"
            )
    if any(is_compiled(part) for part in module.modules()):
        raise UserError("trainer=fsdp: compile=true would compile over the gathering of each block: set compile=false")
    for name, objective in getattr(module, "trained", {}).items():
        if trainer.state.fn == TrainerFn.FITTING and any(not weight for _, weight in objective.points):
            raise UserError(
                f"trainer=fsdp: objectives.{name}.weight is 0 at times, but every process has to run the same parts of the "
                "model at each step: give it a small weight instead of 0, or choose trainer=ddp"
            )
