"""Weights: a number, or points of a schedule with straight lines between them. Scores: of pairs, with gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.base import SCORED_BY, Objective, linear_warmup
from vlp.objectives.filip import FILIP
from vlp.objectives.irtr import IRTR
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.siglip import SigLIP

SCORING = {"itm": ITM(width=4), "itc": ITC(), "siglip": SigLIP(), "irtr": IRTR(width=4), "filip": FILIP()}


def test_a_number_is_a_weight_for_the_whole_run() -> None:
    assert [Objective(weight=0.3).weight_at(at) for at in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    assert Objective(weight=0.0).weight == 0


def test_points_of_a_schedule() -> None:
    objective = Objective(weight=[[0.5, 0.0], [0.7, 1.0], [1.0, 0.4]])
    assert objective.weight == 1  # it is trained at some time
    for at, weight in ((0.0, 0.0), (0.5, 0.0), (0.6, 0.5), (0.7, 1.0), (0.85, 0.7), (1.0, 0.4)):
        assert objective.weight_at(at) == pytest.approx(weight)


@pytest.mark.parametrize("weight", [[], [[0.5, 1.0], [0.2, 0.0]], [[0.5]]])
def test_a_schedule_that_is_none(weight: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"points \[fraction, weight\]"):
        Objective(weight=weight)


def test_ramp() -> None:
    assert [linear_warmup(0.4, step, 10) for step in (0, 5, 10, 20)] == [0.0, 0.2, 0.4, 0.4]
    assert linear_warmup(0.4, 0, 0) == 0.4


def test_scores_are_those_of_the_losses() -> None:
    batch = toy_batch()
    for name, objective in SCORING.items():
        model = toy_model(fused=name in ("itm", "irtr"), late=name == "filip", logit_bias=-3.0).double().eval()
        objective.double().eval()
        features = compute_features(model, batch, {"image", *objective.uses})
        if name in ("itc", "siglip"):
            expected = model.similarity(features.image_embed, features.text_embed).diagonal()
        elif name == "itm":
            expected = objective.logits(model, features.text, features.memory)[:, 1]
        else:
            expected = objective.pair_score(model, features.text, features.memory)
        torch.testing.assert_close(objective.score(model, features.image, batch.caption), expected, rtol=0, atol=1e-12)
        alone = objective.score(model, features.image.select([3]), batch.caption.select([3]))
        torch.testing.assert_close(alone, expected[3:4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCORED_BY)
def test_scores_are_differentiable_by_what_they_read_of_the_image(name: str) -> None:
    model = toy_model(fused=name in ("itm", "irtr"), late=name == "filip", logit_bias=-3.0).double().eval()
    batch, objective = toy_batch(), SCORING[name].double().eval()
    image = model.encode_image(batch.image)
    states, pooled = image.states.detach().requires_grad_(), image.pooled.detach().requires_grad_()
    objective.score(model, replace(image, states=states, pooled=pooled), batch.caption).sum().backward()
    gradient = pooled.grad if name in ("itc", "siglip") else states.grad
    assert gradient is not None
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("objective", [Objective(), MLM(width=4, vocabulary_size=30)])
def test_an_objective_without_a_score_names_those_that_have_one(objective: Objective) -> None:
    model, batch = toy_model().double(), toy_batch()
    with pytest.raises(
        ValueError, match=f"{type(objective).__name__} gives .* no score: itm, itc, siglip, irtr and filip do"
    ):
        objective.score(model, model.encode_image(batch.image), batch.caption)
