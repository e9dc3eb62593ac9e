"""FILIP's contrast on the late fusion, and two processes against one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.objectives.contrast import CASES, assert_two_processes_equal_one
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.filip import FILIP


def test_learns_to_tell_pairs_apart() -> None:
    batch, model, objective = toy_batch(), toy_model(late=True).double(), FILIP()
    objective.prepare(model, None, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = objective(model, batch, compute_features(model, batch, objective.uses)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_captions_of_one_image_are_no_negatives() -> None:
    batch, model, objective = toy_batch(), toy_model(late=True).double(), FILIP()
    batch = dataclasses.replace(batch, id=torch.zeros_like(batch.id))
    assert float(objective(model, batch, compute_features(model, batch, objective.uses)).value) == 0


def test_score_is_the_fused_score() -> None:
    batch, model, objective = toy_batch(), toy_model(late=True).double(), FILIP()
    features = compute_features(model, batch, objective.uses)
    every = model.part("fusion").score_all_pairs(features.text, features.memory)
    torch.testing.assert_close(objective.pair_score(model, features.text, features.memory), every.diagonal())


def test_another_fusion_is_an_error_that_names_the_right_one() -> None:
    with pytest.raises(ValueError, match="model/fusion=late"):
        FILIP().prepare(toy_model(fused=True), None, None)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "filip"])
def test_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)
