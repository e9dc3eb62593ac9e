from __future__ import annotations

import pytest
import torch

from tests.models.probes.examples import clouds
from vlp.models.probes import logistic
from vlp.models.probes.labelled import Labelled


def reference(data: Labelled, labels: torch.Tensor, c: float) -> tuple[torch.Tensor, torch.Tensor]:
    linear_model = pytest.importorskip("sklearn.linear_model")
    solver = linear_model.LogisticRegression(C=c, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    solver.fit(data.features.numpy(), labels.numpy())
    return torch.tensor(solver.coef_), torch.tensor(solver.intercept_)


@pytest.mark.parametrize("c", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("samples", [120, 6])
def test_softmax_is_scikit_learns_solution(c: float, samples: int) -> None:
    data = clouds(samples=samples)
    found = logistic.fit(data, c)
    weight, bias = reference(data, data.targets.int().argmax(1), c)
    torch.testing.assert_close(found.weight, weight, atol=1e-4, rtol=0)
    scores = data.features @ weight.T + bias
    torch.testing.assert_close(found.scores(data.features).softmax(1), scores.softmax(1), atol=1e-4, rtol=0)


def test_two_classes_are_one_sigmoid_as_in_scikit_learn() -> None:
    data = clouds(classes=2)
    found = logistic.fit(data, 2.0)
    weight, bias = reference(data, data.targets[:, 1].long(), 2.0)
    torch.testing.assert_close(found.weight[1] - found.weight[0], weight[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.bias[1] - found.bias[0], bias[0], atol=1e-4, rtol=0)


def test_several_classes_a_sample_are_independent_problems() -> None:
    data = clouds(exclusive=False)
    found = logistic.fit(data, 0.5)
    for index in range(3):
        weight, bias = reference(data, data.targets[:, index].long(), 0.5)
        torch.testing.assert_close(found.weight[index], weight[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.bias[index], bias[0], atol=1e-4, rtol=0)


def test_a_path_gives_the_same_classifiers_as_single_fits() -> None:
    data = clouds()
    settings = logistic.default_settings(data)[2:8]
    for c, drafted in zip(settings, logistic.fit_path(data, settings), strict=True):
        torch.testing.assert_close(drafted.weight, logistic.fit(data, c).weight, atol=10 * logistic.DRAFT, rtol=0)


def test_the_gradient_with_a_prior_is_zero_at_the_solution() -> None:
    data = clouds()
    prior = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = logistic.fit(data, 0.3, prior)
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    logits = data.features @ weight.T + bias
    loss = 0.3 * torch.nn.functional.cross_entropy(logits, data.targets.int().argmax(1).long(), reduction="sum")
    (loss + (weight - prior).square().sum() / 2).backward()
    assert float(weight.grad.abs().max()) < 1e-5
    assert float(bias.grad.abs().max()) < 1e-5


def test_a_strong_penalty_stays_at_the_prior() -> None:
    data = clouds()
    prior = torch.eye(3, 8, dtype=torch.float64)
    torch.testing.assert_close(logistic.fit(data, 1e-9, prior).weight, prior, atol=1e-6, rtol=0)
