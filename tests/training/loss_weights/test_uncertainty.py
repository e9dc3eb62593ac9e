"""Learned weights of losses: the closed form, its optimum, runs that resume bit by bit and on two processes."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch

import vlp
from tests.runs import (
    SMALL_CLIP,
    assert_equal,
    assert_same_training,
    load_checkpoint,
    make_run_folder,
    train_here,
    train_in_float64,
)
from tests.training.test_module import fit, module
from vlp.training.loss_weights.uncertainty import UncertaintyWeights

SMALL = (*(word for word in SMALL_CLIP if not word.startswith("trainer.max_epochs")), "data.images.train=32")
RUN = (
    *SMALL,
    "trainer.max_epochs=2",
    "loss_weights=uncertainty",
    "objective=[itc,siglip]",
    "model.projection.logit_bias=-10.0",
)


def test_closed_form() -> None:
    weights = UncertaintyWeights(names=["itc", "mlm"]).double()
    loss = torch.tensor(3.0, dtype=torch.float64)
    assert weights("itc", loss) == 3.0  # at first the loss itself
    with torch.no_grad():
        weights.log_variance["itc"].fill_(2.0)
    torch.testing.assert_close(weights("itc", loss), 3 * torch.exp(torch.tensor(-2.0, dtype=torch.float64)) + 1)
    assert weights("mlm", loss) == 3.0
    assert weights.weights()["itc"].item() == pytest.approx(2.718281828**-2)


def test_at_the_optimum_every_loss_counts_a_half() -> None:
    weights = UncertaintyWeights(names=["small", "large"]).double()
    losses = {"small": 0.05, "large": 40.0}
    with torch.no_grad():
        for name, loss in losses.items():
            weights.log_variance[name].fill_(math.log(2 * loss))
    terms = [weights(name, torch.tensor(loss, dtype=torch.float64)) for name, loss in losses.items()]
    torch.stack(terms).sum().backward()
    for parameter in weights.parameters():
        assert parameter.grad.item() == pytest.approx(0.0, abs=1e-12)
    for name, loss in losses.items():
        assert weights.weights()[name].item() * loss == pytest.approx(0.5, rel=1e-3)


def test_they_are_trained_with_the_model() -> None:
    trained = fit(module(loss_weights=functools.partial(UncertaintyWeights)))
    assert trained.loss_weights is not None
    assert trained.loss_weights.log_variance["itc"].item() != 0.0
    assert "loss_weights.log_variance.itc" in trained.state_dict()


def test_a_resumed_run_is_the_straight_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, parts = (make_run_folder(tmp_path / name, *RUN, data=tmp_path / "scenes") for name in ("one", "two"))
    train_here(straight)
    monkeypatch.setenv("VLP_FAULTS", "site=before_backward,step=5,kind=raise")
    with pytest.raises(RuntimeError):
        train_here(parts)
    monkeypatch.delenv("VLP_FAULTS")
    train_here(parts)
    last = load_checkpoint(straight)
    assert last["state_dict"]["loss_weights.log_variance.siglip"] != 0
    for name in ("state_dict", "optimizer_states"):
        assert_equal(last[name], load_checkpoint(parts)[name], name)
    assert vlp.load(straight).embed_texts(["a red circle"]).shape[0] == 1  # which needs no weights of losses


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """In float64, as tests/behaviour/test_two_processes.py."""
    states = []
    for processes in (1, 2):
        folder = make_run_folder(
            tmp_path / str(processes), *RUN, "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}",
            "trainer.precision=32-true", "trainer.max_epochs=1", data=tmp_path / "scenes",
        )  # fmt: skip
        states.append(train_in_float64(folder))
    assert_same_training(*states)
