"""What the module refuses before or at the first step, and which parts it trains."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from tests.towers import toy_batch, toy_model
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.itc import ITC
from vlp.structures import Batch, Features, Loss
from vlp.training.module import VisionLanguageModule
from vlp.training.optimizer import AdamW


class Data(L.LightningDataModule):
    name, steps_per_epoch = "toy", 2

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([toy_batch(), toy_batch()], batch_size=None)


def module(**changes: Any) -> VisionLanguageModule:
    model = changes.pop("model", toy_model())
    return VisionLanguageModule(
        model=model, objectives={"itc": changes.pop("itc", ITC())}, optimizer=AdamW(lr=1e-2), **changes
    )


def fit(trained: VisionLanguageModule, **trainer: Any) -> VisionLanguageModule:
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | trainer
    L.Trainer(accelerator="cpu", enable_model_summary=False, **options).fit(trained.double(), datamodule=Data())
    return trained


def test_trains_what_is_not_frozen() -> None:
    before = {name: value.clone() for name, value in toy_model().double().state_dict().items()}
    after = fit(module(freeze=[r"^model\.vision\."])).model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text", "projection"}


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    frozen = module(model=toy_model(dropout=0.5), freeze=[r"^model\.vision\."]).train()
    assert not frozen.model.vision.net[1].training
    assert frozen.model.text.training


def test_freeze_pattern_without_match_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vison' matches no parameter"):
        module(freeze=["vison"])


def test_objective_without_its_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="itc needs the model part 'text'"):
        module(model=VisionLanguageModel(vision=toy_model().vision))


def test_nothing_to_optimise_is_an_error() -> None:
    with pytest.raises(ValueError, match="every objective has weight 0"):
        fit(module(itc=ITC(weight=0.0)))


def test_accumulation_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="gradient_cache"):
        fit(module(), accumulate_grad_batches=2)


def test_a_parameter_that_no_objective_reaches_is_named() -> None:
    model = toy_model()
    model.vision.spare = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"model\.vision\.spare\.weight"):
        fit(module(model=model))


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    model = toy_model()
    with torch.no_grad():
        model.text.net.bias.fill_(float("nan"))
    with pytest.raises(
        ArithmeticError, match=r"the loss is nan on samples .*, and its gradient is not finite, at step"
    ):
        fit(module(model=model), log_every_n_steps=1)


def test_the_temperature_never_passes_100() -> None:
    model = toy_model()
    with torch.no_grad():
        model.projection.logit_scale.fill_(9.2)
    assert float(fit(module(model=model)).model.projection.logit_scale.exp()) <= 100.0001


@pytest.mark.parametrize("chunk", [None, 5])
def test_two_fits_with_one_seed_are_equal_to_the_bit(chunk: int | None) -> None:
    first, second = (
        fit(module(model=toy_model(dropout=0.3), gradient_cache=chunk, seed=4)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    third = fit(module(model=toy_model(dropout=0.3), gradient_cache=chunk, seed=5)).state_dict()
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_deterministic_algorithms_suffice() -> None:
    first, second = (fit(module(model=toy_model(dropout=0.3)), deterministic=True).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


class Words(Objective):
    """A loss without negatives, so that batches of it may be accumulated; its gradient is that of a mean over samples."""

    requires, uses = ("caption",), ("text_embed",)

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        return Loss(value=features.text_embed[:, 0].mean())


class Five(Data):
    steps_per_epoch = 5

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([toy_batch(slice(2 * k, 2 * k + 2)) for k in range(5)], batch_size=None)


class Gradients(Callback):
    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.norms.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None]))
        )


def gradient_norms(data: L.LightningDataModule, **trainer: Any) -> list[float]:
    """Of each optimiser step, with a learning rate that leaves the weights as they are."""
    words, seen = Words(), Gradients()
    trained = VisionLanguageModule(
        model=toy_model(),
        objectives={"words": words},
        optimizer=AdamW(lr=1e-30, weight_decay=0.0),
        freeze=["vision", "image", "logit"],
    )
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False} | trainer
    L.Trainer(accelerator="cpu", enable_model_summary=False, callbacks=[seen], **options).fit(
        trained.double(), datamodule=data
    )
    return seen.norms


class Joined(Five):
    """The batches of each step as one batch: of 3 and of 2."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([toy_batch(slice(0, 6)), toy_batch(slice(6, 10))], batch_size=None)


def test_the_last_step_of_an_epoch_is_the_mean_over_its_own_batches() -> None:
    accumulated = gradient_norms(Five(), accumulate_grad_batches=3, max_epochs=2)
    assert accumulated == pytest.approx(gradient_norms(Joined(), max_epochs=2), rel=1e-9)


def test_an_epoch_that_is_limited_or_shorter_than_a_step() -> None:
    limited = gradient_norms(Five(), accumulate_grad_batches=3, limit_train_batches=4)
    assert limited[1] == pytest.approx(gradient_norms(Five())[3], rel=1e-9)
    assert gradient_norms(Five(), accumulate_grad_batches=9, limit_train_batches=3) == pytest.approx(
        limited[:1], rel=1e-9
    )
