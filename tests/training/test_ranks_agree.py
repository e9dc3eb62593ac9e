"""The watch over weights that must be equal on all ranks: it finds a planted difference, and is silent where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from tests.processes import run_processes
from tests.towers import toy_batch, toy_model
from vlp.objectives.itc import ITC
from vlp.training.callbacks.ranks_agree import RanksAgree, find_disagreement, fingerprint
from vlp.training.module import VisionLanguageModule
from vlp.training.optimizer import AdamW


class Data(L.LightningDataModule):
    name, steps_per_epoch, tokenizer = "toy", 4, None

    def train_dataloader(self) -> DataLoader[Any]:
        rank = torch.distributed.get_rank()
        return DataLoader([toy_batch(slice(6 * rank, 6 * rank + 6))] * 4, batch_size=None)


class Environment(LightningEnvironment):
    """The processes are there already."""

    @property
    def creates_processes_externally(self) -> bool:
        return True


class Plant(L.Callback):
    """Changes the last bit of one weight on rank 1."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == 1:
            weight = pl_module.get_parameter(self.name).data
            weight.view(-1)[-1] = torch.nextafter(weight.view(-1)[-1], torch.tensor(9.0, dtype=weight.dtype))


def fit(*callbacks: L.Callback, rank: int) -> str:
    module = VisionLanguageModule(model=toy_model(), objectives={"itc": ITC()}, optimizer=AdamW(lr=1e-2)).double()
    environment = Environment()
    environment.set_global_rank(rank)
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=DDPStrategy(cluster_environment=environment), max_epochs=1, logger=False,
        callbacks=list(callbacks), enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    try:
        trainer.fit(module, datamodule=Data())
    except ArithmeticError as error:
        return str(error)
    return f"{trainer.global_step} steps"


def ranks_train(rank: int, world: int) -> list[str]:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    weight = "model.text.net.weight"
    return [
        fit(RanksAgree(), rank=rank),
        fit(Plant(weight, 2), RanksAgree(), rank=rank),
        fit(Plant(weight, 3), RanksAgree(every_n_steps=2), rank=rank),
        fit(Plant(weight, 3), RanksAgree(every_n_steps=5), rank=rank),
    ]


def test_weights_are_equal_after_every_step_and_a_planted_difference_is_found(tmp_path: Path) -> None:
    """A changed last bit of one weight is named, with the step and the ranks, and on every rank."""
    first, second = run_processes(2, ranks_train, tmp_path)
    assert first == second
    healthy, planted, later, never = first
    assert healthy == never == "4 steps"
    assert planted.startswith("after step 2 model.text.net.weight differs between ranks 0, 1: every rank")
    # the gradients of the other parameters are averaged, so they stay equal; the optimiser adds to what is there
    assert later.startswith("after step 4 model.text.net.weight differs between ranks 0, 1: every rank")


def test_a_fingerprint_changes_with_any_bit_and_any_order() -> None:
    value = torch.randn(40, dtype=torch.float64)
    flipped, swapped = value.clone(), value.clone()
    flipped.view(torch.int64)[17] ^= 1
    swapped[[3, 4]] = value[[4, 3]]
    prints = {int(fingerprint(x)) for x in (value, flipped, swapped, value.float(), torch.zeros(40), torch.zeros(41))}
    assert len(prints) == 6
    assert int(fingerprint(value)) == int(fingerprint(value.clone()))
    assert int(fingerprint(torch.tensor(0.0))) != int(fingerprint(torch.tensor(-0.0)))
    assert fingerprint(torch.tensor(True)).shape == ()


def test_the_odd_rank_is_named_where_most_agree() -> None:
    names = ["a", "b", "c"]
    equal = torch.tensor([[1, 2, 3]] * 3)
    assert find_disagreement(equal, names) is None
    odd = equal.clone()
    odd[2, 1:] = 9
    assert find_disagreement(odd, names) == "b (and 1 more) differs on rank 2"
    assert find_disagreement(odd[1:], names) == "b (and 1 more) differs between ranks 0, 1"
    with pytest.raises(ValueError, match=r"callbacks\.ranks_agree\.every_n_steps=0"):
        RanksAgree(every_n_steps=0)
