"""The LightningModule: model + objectives + tasks. It names no objective, so every run is this one class.

Batches come as `Batch` or, from a mixture, as {source: Batch}. Figures are named
train/<source>/<objective>/<what> and val|test/<source>/<task>/<metric>.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vlp.checkpoints.tensor_files import FORMAT
from vlp.distributed import sum_over_ranks
from vlp.launch.config.layout import ENDLESS, optimizer_steps
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.random import mix
from vlp.structures import Batch
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject
from vlp.tasks.base import Task
from vlp.training.determinism import numeric_settings
from vlp.training.evaluator import Measurement
from vlp.training.fit_checks import check_fit
from vlp.training.freezing import freeze_parameters, frozen_parts
from vlp.training.lifecycle.nonfinite import NonFiniteGuard
from vlp.training.lifecycle.restart import move_between_steps
from vlp.training.lifecycle.signals import SIGNALS
from vlp.training.loss_weights.uncertainty import UncertaintyWeights
from vlp.training.portable_config import portable_config
from vlp.training.resumed_settings import check_weights, keep_callback_settings, keep_schedule, keep_settings


class VisionLanguageModule(L.LightningModule):
    """optimizer: module → Optimizer.  schedule: (optimizer, total steps) → scheduler, stepped after each step.

    freeze: regexes of parameter names that are not trained; modules left without any trainable parameter stay in
    evaluation mode (batch norms keep their statistics).  gradient_cache: rows per chunk, None = off.
    guard: what follows when a gradient is not finite; None = an error.
    loss_weights: from the names of the trained objectives to what weighs their losses, `UncertaintyWeights`; None = by their own
    weights alone.
    momentum: the share m that the slowly moving copy of model and heads keeps at each step (ALBEF: 0.995); None = no copy.
    config: the resolved config as plain data; it travels in every checkpoint, with the tokenizer, so that the file
    alone rebuilds the model.
    """

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        objectives: Mapping[str, Objective],
        tasks: Mapping[str, Task] | None = None,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        freeze: Sequence[str] = (),
        gradient_cache: int | None = None,
        momentum: float | None = None,
        loss_weights: Callable[..., UncertaintyWeights] | None = None,
        guard: NonFiniteGuard | None = None,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict({**objectives, **(tasks or {})})
        self.tasks = dict(tasks or {})
        self.momentum = None if momentum is None else MomentumCopy(model, dict(self.objectives.items()), decay=momentum)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.gradient_cache = gradient_cache
        self.guard = guard or NonFiniteGuard()
        self.seed = seed
        self.config = dict(config or {})
        self.samples_seen = 0
        # of the current optimiser step, within its epoch; None = before the first one
        self._first_batch: int | None = None
        self.extents: dict[str, dict[str, Any]] = {}  # of the last "val" and "test", see `Measurement.extent`
        self._checked = False  # that every trainable parameter is reached, at the first step of all objectives
        self.loss_weights = None if loss_weights is None else loss_weights(names=list(self.trained))
        freeze_parameters(self, freeze)
        for name, objective in {**objectives, **self.tasks}.items():
            if not objective.weight:
                objective.requires_grad_(False)
                if name not in self.tasks:
                    continue  # a head that others use
            for part in objective.needs:
                if getattr(model, part, None) is None:
                    raise UserError(
                        f"{name} needs the model part {part!r}, which this model lacks: choose another model=…"
                    )
            lacking = [other for other in objective.heads if other not in self.objectives]
            if lacking:
                raise UserError(f"{name} uses the head of {lacking[0]}: add it, for example objective=[…,{lacking[0]}]")
            objective.linked = {other: self.objectives[other] for other in objective.heads}  # type: ignore[misc]
            if momentum is None and any(field.startswith("momentum") for field in objective.uses):
                raise UserError(f"{name} needs the momentum copy of the model: set momentum=0.995")
        self._freeze_statistics()  # Lightning leaves modules in the mode that they were built in

    def train(self, mode: bool = True) -> VisionLanguageModule:
        super().train(mode)
        self._freeze_statistics()
        return self

    def _freeze_statistics(self) -> None:
        for part in frozen_parts(self.model, self.objectives):
            part.eval()
            if self.momentum is not None and self.momentum.has_copy_of(part):
                self.momentum.copy_of(part).eval()

    # ---------------------------------------------------------------- training

    @property
    def trained(self) -> dict[str, Objective]:
        return {name: objective for name, objective in self.objectives.items() if objective.weight}  # type: ignore[misc]

    def on_fit_start(self) -> None:
        self._freeze_statistics()
        check_fit(self.trainer, model=self.model, trained=self.trained, config=self.config)
        self._first_batch = None
        self.model.clamp_parameters()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        for objective in self.trained.values():
            objective.prepare(self.model, getattr(data, "tokenizer", None), data)

    def on_train_start(self) -> None:
        SIGNALS.began = True
        for schedule in self.trainer.lr_scheduler_configs:
            keep_schedule(schedule.scheduler)  # type: ignore[arg-type]

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # dropout depends on (seed, step, rank) alone, so a resumed run draws what the straight run would have drawn
        part = index % self.trainer.accumulate_grad_batches
        torch.manual_seed(mix(self.seed, self.global_step, self.global_rank, *([part] if part else [])))
        if part and self._first_batch is not None:
            return
        self._first_batch = index
        if self.momentum is not None:
            self.momentum.step()
        self.guard.before_step(self)

    def training_step(self, batch: Batch | dict[str, Batch], index: int) -> Tensor:
        weights = self.weights()
        losses = [self._source_loss(source, part, weights) for source, part in self._by_source(batch).items()]
        if len(weights) < len(self.trained):
            # several processes need a gradient of every parameter: what waits for its objective gets one of 0, which is
            # taken away before the optimiser sees it
            losses += [0 * parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
        loss = torch.stack(losses).sum()
        if inject("before_backward", step=self.global_step, rank=self.global_rank):
            loss = loss * torch.nan
        self._latest = loss.detach(), [part.sample for part in self._by_source(batch).values()]
        self._log_learning_rates()
        if self.loss_weights is not None:
            self.log_dict({f"train/loss_weight/{name}": value for name, value in self.loss_weights.weights().items()})
        return loss * self._accumulation_factor(index)

    def _log_learning_rates(self) -> None:
        """At the steps that loggers get: a call for each group takes longer than many a step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector; 0 = never
        if every and (self.global_step + 1) % every == 0:
            groups = self.trainer.optimizers[0].param_groups
            self.log_dict({f"lr/group_{number}": group["lr"] for number, group in enumerate(groups)})

    def _accumulation_factor(self, index: int) -> float:
        """Makes the gradient of a step the mean over its own batches, which all have the same number of samples.

        Lightning divides each loss by `accumulate_grad_batches`, also where an epoch ends, or a resumed run begins, within
        that many batches.
        """
        parts = self.trainer.accumulate_grad_batches
        assert self._first_batch is not None
        end = min((index // parts + 1) * parts, self.trainer.num_training_batches)
        return parts / (end - self._first_batch)

    def weights(self) -> dict[str, float]:
        """Of the objectives whose schedule gives them one at this step."""
        progress = self.global_step / max(1, self.optimizer_steps())
        every = {name: objective.weight_at(progress) for name, objective in self.trained.items()}
        return {name: weight for name, weight in every.items() if weight}

    def _by_source(self, batch: Batch | dict[str, Batch]) -> dict[str, Batch]:
        return batch if isinstance(batch, dict) else {self.trainer.datamodule.name: batch}  # type: ignore[attr-defined]

    def _source_loss(self, source: str, batch: Batch, weights: Mapping[str, float]) -> Tensor:
        applying = {name: o for name, o in self.trained.items() if o.applies(batch, source)}
        if not applying:
            raise UserError(f"no objective runs on batches of {source!r}: check objectives' `requires` and `sources`")
        self.samples_seen += len(batch) * self.trainer.world_size
        active = {name: o for name, o in applying.items() if name in weights}
        if not active:
            return torch.zeros((), device=self.device)
        fields = set().union(*(objective.uses for objective in active.values()))
        features = compute_features(
            self.model,
            batch,
            fields,
            chunk=self.gradient_cache,
            step=self.global_step,
            momentum=self.momentum,
            levels={level for objective in active.values() for level in objective.levels},
        )
        weighted: list[Tensor] = []
        logs: dict[str, Tensor] = {}
        for name, objective in active.items():
            loss = objective(self.model, batch, features)
            value = loss.value if self.loss_weights is None else self.loss_weights(name, loss.value)
            weighted.append(weights[name] * value)
            logs |= {f"train/{source}/{name}/{key}": value for key, value in loss.logs.items()}
            logs[f"train/{source}/{name}/loss"] = loss.value.detach()
        self.log_dict(logs, batch_size=len(batch))
        return torch.stack(weighted).sum()

    def on_after_backward(self) -> None:
        if not self._checked and len(self.weights()) == len(self.trained):
            self._checked = True
            lost = [name for name, p in self.named_parameters() if p.requires_grad and p.grad is None]
            if lost:
                raise UserError(
                    f"{len(lost)} trainable parameters are reached by no objective ({', '.join(lost[:5])}, …): "
                    "add an objective that uses them, or freeze them with freeze=['regex']"
                )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self._is_step_finite():
            for parameter in self.parameters():
                parameter.grad = None  # an optimiser leaves what has no gradient as it is
            return
        if len(self.weights()) < len(self.trained):
            for parameter in self.parameters():
                if parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None  # nor does what waits decay

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.model.clamp_parameters()

    def _is_step_finite(self) -> bool:
        every: int = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]  # set by Lightning's logger connector
        if self.guard.policy == "raise" and self.device.type != "cpu" and self.global_step % every:
            return True  # to look is to wait for the accelerator
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            # it leaves out steps by itself, as a part of its search for a scale; a loss that is no number it cannot mend
            gradients = [sum_over_ranks(self._latest[0])]
        else:
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        loss, samples = self._latest
        return self.guard.check(self, gradients, [rows.tolist() for rows in samples], loss)

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None, "this module was built without an optimizer"
        optimizer = self.make_optimizer(self)
        keep_settings(optimizer, self)
        if self.make_schedule is None:
            return {"optimizer": optimizer}
        steps = self.optimizer_steps()
        if steps == ENDLESS:
            raise UserError("trainer.max_epochs=-1: a schedule must know the end: set trainer.max_steps or max_epochs")
        schedule = self.make_schedule(optimizer, max(1, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def optimizer_steps(self) -> int:
        """Optimiser steps of the whole run."""
        trainer = self.trainer
        return optimizer_steps(
            trainer.datamodule.steps_per_epoch,  # type: ignore[attr-defined]
            max_epochs=trainer.max_epochs,
            max_steps=trainer.max_steps,
            limit=trainer.limit_train_batches,
            accumulated=trainer.accumulate_grad_batches,
        )

    # -------------------------------------------------------------- evaluation

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation("test")

    def _start_evaluation(self, split: str) -> None:
        SIGNALS.began = True
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.measurement = Measurement(
            model=self.model,
            tasks=self.tasks,
            sources=data.sources_with_split(split),
            tokenizer=data.tokenizer,
            split=split,
            model_precision=self.trainer.precision_plugin.forward_context,
        )

    def validation_step(self, batch: Batch | None, index: int, dataloader_idx: int = 0) -> None:
        self.measurement.update(batch, source=dataloader_idx, step=self.global_step)

    def test_step(self, batch: Batch | None, index: int, dataloader_idx: int = 0) -> None:
        self.measurement.update(batch, source=dataloader_idx, step=self.global_step)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, stage: str) -> None:
        figures = self.measurement.finish()
        if not self.trainer.sanity_checking:
            self.extents[stage] = self.measurement.extent()
        # equal on every rank by construction of `compute`, hence no sync
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items() if value is not None})

    def latest_figures(self, stage: str) -> dict[str, float | None]:
        """Of the last "val" or "test" that this process measured; None = undefined."""
        undefined = self.extents.get(stage, {}).get("undefined", ())
        logged = self.trainer.callback_metrics.items()
        figures = {name: float(value) for name, value in logged if name.startswith(f"{stage}/")}
        return figures | {f"{stage}/{name}": None for name in undefined}

    # ------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        checkpoint["vlp_format"] = FORMAT
        checkpoint["config"] = portable_config(self.config, self.model, self.tasks, tokenizer.size)
        checkpoint["tokenizer_json"] = tokenizer.to_json()
        checkpoint["samples_seen"] = self.samples_seen
        checkpoint["numerics"] = numeric_settings()
        checkpoint["figures"] = self.latest_figures("val")  # of the last validation, which saw these weights
        checkpoint["val_extent"] = self.extents.get("val", {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["samples_seen"]
        keep_callback_settings(checkpoint, self.trainer.callbacks)  # type: ignore[attr-defined]
        check_weights(checkpoint["state_dict"], self)
        self.extents["val"] = checkpoint.get("val_extent", {})
        if "loops" in checkpoint:
            move_between_steps(checkpoint)
