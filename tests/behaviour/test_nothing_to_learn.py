"""Batches without tokens or with one caption many times: losses and gradients stay finite."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.objectives import single_stream
from tests.objectives.contrast import Step, make
from tests.objectives.test_lm import lm_objective
from tests.objectives.test_lm import toy as captioner
from tests.towers import toy_batch
from vlp.objectives.base import classification_loss
from vlp.structures import Batch, Text

NAMES = ["itc", "queue", "siglip", "filip", "itm", "mlm", "lm", "wpa", "irtr"]


def step_and_batch(name: str) -> tuple[Step, Batch]:
    if name in single_stream.NAMES:
        return single_stream.step(name), single_stream.single_stream_batch()
    if name == "lm":
        step = Step(make("itc"), None)
        step.model, step.objective = captioner(), lm_objective()
        return step, toy_batch(same_image=False)
    return Step(make(name), None), toy_batch()


def texts(batch: Batch) -> Text:
    assert batch.caption is not None
    return batch.caption


def with_texts(batch: Batch, ids: torch.Tensor, mask: torch.Tensor) -> Batch:
    return dataclasses.replace(batch, caption=Text(ids=ids, mask=mask))


def assert_finite(step: Step, batch: Batch) -> float:
    loss = step(batch)
    assert loss.isfinite()
    if loss.requires_grad:
        loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in step.parameters())
    return float(loss.detach())


@pytest.mark.parametrize("masked", ["one", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_texts_without_a_token(name: str, masked: str) -> None:
    step, batch = step_and_batch(name)
    mask = texts(batch).mask.clone()
    mask[3 if masked == "one" else slice(None)] = False
    empty = with_texts(batch, texts(batch).ids * mask, mask)
    if name == "filip":  # the mean over a caption's words
        with pytest.raises(ValueError, match="has no word to compare with an image"):
            step(empty)
        return
    loss = assert_finite(step, empty)
    if masked == "all" and name in ("mlm", "lm"):
        assert loss == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_caption_many_times(name: str) -> None:
    """Several steps, so that a queue contains it too."""
    step, batch = step_and_batch(name)
    ids, mask = (part[:1].expand(len(batch), -1).contiguous() for part in (texts(batch).ids, texts(batch).mask))
    for _ in range(3):
        assert_finite(step, with_texts(batch, ids, mask))


def test_no_known_label_is_no_loss_with_a_gradient_of_zero() -> None:
    logits, label = torch.randn(4, 3, requires_grad=True), torch.full((4,), -1)
    known = label >= 0
    loss = classification_loss(logits[known], label[known], logits.detach().softmax(1)[known], 0.4)
    loss.value.backward()
    assert loss.value == 0
    assert logits.grad is not None
    assert not logits.grad.any()
