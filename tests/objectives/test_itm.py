"""Image-text matching: which negatives it draws, that it learns, and two processes against one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.objectives.contrast import CASES, assert_two_processes_equal_one
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.itm import ITM, sample_negatives

ALLOWED = torch.tensor([[False, True, True, True], [True, False, True, True], [False, False, False, False]])


def test_draws_follow_the_similarities_among_what_is_allowed() -> None:
    similarity = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).repeat(20000, 1)
    drawn, valid = sample_negatives(similarity, ALLOWED[:1].expand(20000, -1), torch.arange(20000))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = torch.tensor([-torch.inf, 0.0, 1.0, 2.0]).softmax(0)
    assert valid.all()
    torch.testing.assert_close(share, expected, atol=0.02, rtol=0)


def test_similarities_that_a_softmax_would_round_to_zero_still_give_a_negative() -> None:
    drawn, valid = sample_negatives(torch.tensor([[1e4, 0.0, -1e4, -1e4]] * 3), ALLOWED, torch.arange(3))
    assert drawn[:2].tolist() == [1, 0]
    assert valid.tolist() == [True, True, False]


def test_the_same_image_is_never_a_negative() -> None:
    """All captions of one image: nothing is left to tell apart, and only the matches count."""
    batch = toy_batch(slice(0, 4), same_image=False)
    batch = type(batch)(**{**vars(batch), "id": torch.zeros(4, dtype=torch.int64)})
    objective, model = ITM(width=4).double(), toy_model(fused=True).double()
    loss = objective(model, batch, compute_features(model, batch, objective.uses))
    words, image = (compute_features(model, batch, (name,)) for name in ("text", "image"))
    logits = objective.head(model.fuse(words.text, image.image).pooled)
    expected = torch.nn.functional.cross_entropy(logits, torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(loss.value, expected)


def test_what_the_data_know_to_be_true_is_never_a_negative() -> None:
    """Each caption is also true of the second and the fifth image after its own (tests/towers.py)."""
    batch, model = toy_batch(same_image=False), toy_model(fused=True).double()
    objective = ITM(width=4, hardness=0.0).double()
    known = {(row, int(image)) for row, images in enumerate(batch.also_true[:, 0]) for image in images}
    drawn = set()
    for seed in range(200):
        other = dataclasses.replace(batch, seed=batch.seed + 100 * seed)
        features = compute_features(model, other, objective.uses)
        texts, _, images, _ = objective.negatives(model, other, features)
        drawn |= {(int(text), image) for image, text in enumerate(texts)} | set(enumerate(images.tolist()))
    everything = {(row, image) for row in range(len(batch)) for image in range(len(batch)) if row != image}
    assert drawn == everything - known


def test_hardness_sharpens_the_draw() -> None:
    batch, model = toy_batch(same_image=False), toy_model(fused=True).double()
    objective = ITM(width=4, hardness=1e6).double()
    features = compute_features(model, batch, objective.uses)
    similarity = model.similarity(features.image_embed, features.text_embed).T
    wrong = torch.eye(len(batch), dtype=torch.bool)
    wrong[torch.arange(len(batch))[:, None], batch.also_true[:, 0]] = True
    images = objective.negatives(model, batch, features)[2]
    torch.testing.assert_close(images, similarity.masked_fill(wrong, -torch.inf).argmax(1))


def test_learns_to_tell_pairs_apart() -> None:
    torch.manual_seed(0)
    batch, model, objective = toy_batch(same_image=False), toy_model(fused=True).double(), ITM(width=4).double()
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.01)
    accuracies = []
    for _ in range(300):
        loss = objective(model, batch, compute_features(model, batch, objective.uses))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        accuracies.append(float(loss.logs["accuracy"]))
    # of many steps, as single ones depend on the processor's rounding; two thirds are right without any learning
    assert sum(accuracies[-100:]) / 100 > 80


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "itm"])
def test_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)
