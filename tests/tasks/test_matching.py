"""Matching: the hardest negatives are what they should be, true captions are none, and the accuracy is balanced."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.itm import ITM
from vlp.structures import Batch, Sample, Text
from vlp.tasks.matching import Matching, _hardest_pairs


def test_the_hardest_is_the_most_similar_that_is_allowed() -> None:
    score = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 4.0]])  # of two texts with three images
    allowed = torch.tensor([[False, True, True], [True, False, True]])
    orders = (torch.arange(3), torch.arange(2))
    assert _hardest_pairs(score, allowed, *orders).tolist() == [[1, 0], [2, 1], [0, 1], [1, 0], [2, 1]]


def test_equally_hard_ones_are_chosen_by_the_order_given() -> None:
    """Which is that of their ids, so that it does not depend on the rank that saw them."""
    score, allowed = torch.zeros(2, 3), torch.tensor([[False, True, True], [True, False, True]])
    orders = (torch.tensor([2, 1, 0]), torch.tensor([1, 0]))
    assert _hardest_pairs(score, allowed, *orders).tolist() == [[2, 0], [2, 1], [0, 1], [1, 0], [2, 1]]


def evaluated(task: Matching, also: dict[int, tuple[int, ...]], parts: tuple[slice, ...]) -> dict[str, float]:
    model = toy_model(fused=True)
    task.reset()
    task.linked = {"itm": ITM(width=4)}
    torch.nn.init.normal_(task.linked["itm"].head.weight)
    for rows in parts:
        batch = toy_batch(rows, same_image=False).map(lambda t: t.float() if t.is_floating_point() else t)
        caption = Text(ids=batch.caption.ids[:, None], mask=batch.caption.mask[:, None])
        raw = tuple(
            Sample(id=i, sample=i, image=Path("x"), captions=("a",), also_true=(also.get(i, ()),))
            for i in batch.id.tolist()
        )
        batch = Batch(**{**vars(batch), "caption": caption, "raw": raw})
        task.update(model, batch, compute_features(model, batch, task.uses))
    return task.compute(model)


def test_balanced_and_the_same_for_any_batches() -> None:
    torch.manual_seed(0)
    full = evaluated(Matching(), {}, (slice(0, 12),))
    torch.manual_seed(0)
    parts = evaluated(Matching(), {}, (slice(0, 5), slice(5, 12)))
    assert full == parts
    assert full["accuracy"] == (full["positive_accuracy"] + full["hard_negative_accuracy"]) / 2


def test_what_is_true_is_no_negative() -> None:
    """With all other images excluded, no negative is left for that text."""
    task = Matching()
    evaluated(task, {0: tuple(range(1, 12))}, (slice(0, 12),))
    assert len(task._also_true) == 12
    allowed = torch.ones(12, 12, dtype=torch.bool).fill_diagonal_(False)
    allowed[0] = False
    assert 0 not in _hardest_pairs(torch.randn(12, 12), allowed, torch.arange(12), torch.arange(12))[:11, 1].tolist()


def test_without_a_contrastive_space() -> None:
    figures = evaluated(Matching(contrastive=False), {}, (slice(0, 12),))
    assert figures["accuracy"] == figures["random_accuracy"]
    assert "hard_accuracy" not in figures
