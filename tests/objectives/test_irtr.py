"""Ranking a text above those of other images: which ones, against a closed form, and two processes against one.

ViLT's own numbers are in tests/checkpoints/test_vilt.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.single_stream import assert_two_processes_equal_one, model, single_stream_batch
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.irtr import IRTR


def test_with_every_other_text_it_is_the_cross_entropy_over_all_that_are_not_of_the_image() -> None:
    objective, fused, batch = IRTR(width=8, negatives=50).double(), model(), single_stream_batch()
    features = compute_features(fused, batch, objective.uses)
    loss = objective(fused, batch, features)
    rows, columns = torch.arange(12).repeat_interleave(12), torch.arange(12).repeat(12)
    scores = objective.pair_score(fused, features.text.select(columns), features.memory.select(rows)).view(12, 12)
    same = batch.id[:, None] == batch.id[None, :]
    scores = scores.masked_fill(same & ~torch.eye(12, dtype=torch.bool), -torch.inf)
    torch.testing.assert_close(loss.value, F.cross_entropy(scores, torch.arange(12)))


def test_as_many_negatives_as_asked_for_and_others_at_another_visit() -> None:
    objective, batch = IRTR(width=8, negatives=3), single_stream_batch()
    index, allowed = objective._shuffle_negatives(batch, torch.arange(12))
    assert not (batch.id[index] == batch.id[:, None])[allowed].any()
    assert allowed.sum(1).tolist() == [11 - (row in (1, 7)) for row in range(12)]
    repeated, _ = objective._shuffle_negatives(replace(batch, seed=batch.seed + 100), torch.arange(12))
    assert torch.equal(objective._shuffle_negatives(batch, torch.arange(12))[0], index)
    assert not torch.equal(index[:, :3], repeated[:, :3])


def test_one_image_alone_has_nothing_to_rank() -> None:
    objective, fused, batch = IRTR(width=8).double(), model(), single_stream_batch()
    batch = replace(batch, id=torch.zeros(12, dtype=torch.int64))
    assert objective(fused, batch, compute_features(fused, batch, objective.uses)).value == 0


def test_learns_with_cross_attention_too() -> None:
    torch.manual_seed(0)
    batch, fused, objective = (
        toy_batch(same_image=False),
        toy_model(fused=True).double(),
        IRTR(width=4, negatives=3).double(),
    )
    optimizer = torch.optim.Adam([*fused.parameters(), *objective.parameters()], lr=0.01)
    for _ in range(300):
        loss = objective(fused, batch, compute_features(fused, batch, objective.uses))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.logs["accuracy"] > 80


def test_no_negatives() -> None:
    with pytest.raises(ValueError, match=r"objectives\.irtr\.negatives=0"):
        IRTR(width=8, negatives=0)


def test_two_processes_equal_one() -> None:
    assert_two_processes_equal_one("irtr")
