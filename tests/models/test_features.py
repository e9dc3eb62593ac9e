"""The gradient cache is exact: chunks change neither the loss nor any gradient, also with dropout and on two processes."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.contrast import CASES, Step, assert_two_processes_equal_one, gradients, make
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features


@pytest.mark.parametrize("name", ["itc", "siglip"])
@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_chunks_equal_one_batch(name: str, chunk: int) -> None:
    plain, chunked = (gradients(Step(make(name), c), toy_batch()) for c in (None, chunk))
    assert abs(plain["loss"] - chunked["loss"]) < 1e-12
    for key, gradient in plain["gradients"].items():
        torch.testing.assert_close(chunked["gradients"][key], gradient, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("case", [case for case in CASES if case[1] is not None], ids=str)
def test_two_processes_with_chunks_equal_one_without(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)


def test_dropout_is_replayed_in_the_backward_pass() -> None:
    """The gradient along a direction equals the loss's difference along it under the same random state."""

    def loss(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
        model = toy_model(dropout=0.5).double()
        weight = model.vision.net[0].weight
        with torch.no_grad():
            weight.add_(shift)
        torch.manual_seed(3)
        features = compute_features(model, toy_batch(), {"image_embed", "text_embed"}, chunk=4)
        value = make("itc")(model, toy_batch(), features).value
        value.backward()
        return value.detach(), weight.grad.sum()

    epsilon = 1e-6
    numeric = (loss(epsilon)[0] - loss(-epsilon)[0]) / (2 * epsilon)
    torch.testing.assert_close(loss(0.0)[1], numeric, rtol=1e-5, atol=1e-8)


def test_refuses_objectives_that_need_token_states() -> None:
    with pytest.raises(ValueError, match="gradient_cache"):
        compute_features(toy_model().double(), toy_batch(), {"image_embed", "text"}, chunk=4)
