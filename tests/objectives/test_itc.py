"""InfoNCE against its closed form, the originals' numbers, and itself on two processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.objectives.contrast import CASES, Step, assert_reference, assert_two_processes_equal_one, make
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.objectives.itc import ITC, info_nce
from vlp.system.errors import UserError


def test_equals_cross_entropy_when_all_images_differ() -> None:
    logits = torch.randn(6, 6, dtype=torch.float64) * 5
    losses = info_nce(logits, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(
        losses, F.cross_entropy(logits, torch.arange(6), reduction="none"), rtol=1e-12, atol=1e-12
    )


def test_captions_of_the_same_image_are_never_negatives() -> None:
    logits = torch.randn(4, 4, dtype=torch.float64)
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 2] = positive[2, 0] = True
    row = logits[0]
    negatives = row[[1, 3]].exp().sum()
    expected = sum(-torch.log(row[j].exp() / (row[j].exp() + negatives)) for j in (0, 2)) / 2
    torch.testing.assert_close(info_nce(logits, positive)[0], expected)
    # raising the score of the other caption of the same image never raises the loss
    higher = logits.clone()
    higher[0, 2] += 1
    assert info_nce(higher, positive)[0] < info_nce(logits, positive)[0]


def test_a_batch_of_one_image_has_no_loss_and_a_finite_gradient() -> None:
    logits = torch.randn(3, 3, requires_grad=True)
    info_nce(logits, torch.ones(3, 3, dtype=torch.bool)).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(3, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["itc", "queue", "siglip", "filip"])
def test_a_temperature_far_too_high_overflows_in_no_precision(name: str, dtype: torch.dtype) -> None:
    """A scale of 10⁴ at the start; after the first step it is at most 100 (tests/training/test_module.py)."""
    step, batch = Step(make(name), None).float(), toy_batch()
    for key, parameter in step.named_parameters():
        if key.endswith("logit_scale"):
            torch.nn.init.constant_(parameter, 9.2)
    with torch.autocast("cpu", dtype=dtype):
        loss = step(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in step.parameters())


def test_reference_values(shared: Path) -> None:
    data = np.load(shared / "reference/losses/clip_siglip_float64.npz")
    assert_reference(ITC(), None, data, "clip", loss_name="clip", tolerance=1e-10)
    inputs = np.load(shared / "reference/open_clip/losses/inputs.npz")
    outputs = np.load(shared / "reference/open_clip/losses/outputs.npz")
    assert_reference(
        ITC(), None, {**{f"in_{k}": inputs[k] for k in inputs.files}, **outputs}, "clip_loss", "clip_loss", 1e-5
    )


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "itc" and case[1] is None], ids=str)
def test_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)


def test_weight_zero_and_batch_order() -> None:
    model = toy_model().double()
    batch, order = toy_batch(), torch.randperm(12)
    shuffled = toy_batch().map(lambda t: t[order])
    values = [
        ITC()(model, b, compute_features(model, b, {"image_embed", "text_embed"})).value for b in (batch, shuffled)
    ]
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)


def test_dims_are_the_mean_of_the_losses_of_each_cut() -> None:
    model, batch = toy_model().double(), toy_batch()
    features = compute_features(model, batch, ITC().uses)
    objective = ITC(dims=[5, 2])
    loss = objective(model, batch, features)
    expected = {}
    for dim in (5, 2):
        image, text = (F.normalize(embed[:, :dim], dim=1) for embed in (features.image_embed, features.text_embed))
        cuts = replace(features, image_embed=image, text_embed=text)
        expected[dim] = ITC()(model, batch, cuts).value
        torch.testing.assert_close(loss.logs[f"loss_{dim}"], expected[dim].detach())
    torch.testing.assert_close(loss.value, (expected[5] + expected[2]) / 2)
    torch.testing.assert_close(ITC(dims=[5])(model, batch, features).value, ITC()(model, batch, features).value)


def test_dims_fill_the_queue_once_a_step() -> None:
    step = Step(ITC(queue_size=20, width=5, dims=[5, 3]), None)
    step(toy_batch())
    assert int(step.objective.image_queue.count) == int(step.objective.text_queue.count) == 12


def test_impossible_dims_are_refused() -> None:
    with pytest.raises(UserError, match="give different widths"):
        ITC(dims=[8, 8])
    with pytest.raises(UserError, match="the joint space has 5 numbers"):
        ITC(dims=[6]).prepare(toy_model(), None, None)
