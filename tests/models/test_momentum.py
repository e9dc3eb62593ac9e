"""The slowly moving copy: what it follows, what it gives, and that it is no part of what is trained."""

from __future__ import annotations

import pytest
import torch

from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM


def momentum_of_toy_model(decay: float = 0.9) -> tuple[torch.nn.Module, ITM, MomentumCopy]:
    model, objective = toy_model(fused=True).double(), ITM(width=4).double()
    return model, objective, MomentumCopy(model, {"itm": objective}, decay=decay)


def test_moves_a_share_of_the_way_at_each_step() -> None:
    model, objective, momentum = momentum_of_toy_model()
    before = model.text.net.weight.detach().clone()
    with torch.no_grad():
        model.text.net.weight += 1.0
        objective.head.bias += 1.0
    momentum.step()
    torch.testing.assert_close(momentum.copy_of(model.text.net).weight, before + 0.1)
    torch.testing.assert_close(momentum.copy_of(objective.head).bias, torch.full((2,), 0.1, dtype=torch.float64))
    momentum.reset_to_originals()
    assert torch.equal(momentum.copy_of(model).text.net.weight, model.text.net.weight)


def test_frozen_weights_stay_bit_exact() -> None:
    model = toy_model(fused=True)
    model.text.requires_grad_(False)
    momentum = MomentumCopy(model, {}, decay=0.995)
    for _ in range(100):
        momentum.step()
    assert torch.equal(momentum.copy_of(model.text.net).weight, model.text.net.weight)


def test_features_of_the_copy_come_without_gradient() -> None:
    model, _, momentum = momentum_of_toy_model()
    with torch.no_grad():
        momentum.model.text.net.weight.zero_()
    features = compute_features(
        model, toy_batch(), ("text_embed", "momentum.text_embed", "momentum.memory"), momentum=momentum
    )
    assert features.momentum is not None
    assert not features.momentum.text_embed.requires_grad
    assert features.momentum.memory is not None
    assert features.memory is None
    assert not torch.equal(features.text_embed, features.momentum.text_embed)


def test_no_parameter_is_trained_and_queues_are_not_copied() -> None:
    model = toy_model(fused=True)
    momentum = MomentumCopy(model, {"itc": ITC(queue_size=100, width=5)})
    assert not any(parameter.requires_grad for parameter in momentum.parameters())
    assert not any(tensor.shape[:1] == (100,) for tensor in momentum.state_dict().values())
    assert len(momentum.state_dict()) == len(model.state_dict())


def test_a_foreign_module_has_no_copy() -> None:
    _, _, momentum = momentum_of_toy_model()
    with pytest.raises(ValueError, match="Linear is no part of the model"):
        momentum.copy_of(torch.nn.Linear(2, 2))


def test_decay_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"momentum=1\.5"):
        momentum_of_toy_model(1.5)
