from __future__ import annotations

import pytest
import torch

from tests.models.probes.examples import clouds
from vlp.models.probes import ridge
from vlp.models.probes.labelled import Labelled


@pytest.mark.parametrize("samples", [120, 5])  # more and fewer than features
def test_each_penalty_gives_the_solution_of_the_normal_equations(samples: int) -> None:
    data = clouds(samples=samples)
    settings = ridge.default_settings(data)
    assert len(settings) == 31
    centred = data.features - data.features.mean(0)
    targets = 2 * data.targets.double() - 1
    for penalty, found in zip(settings, ridge.fit_path(data, settings), strict=True):
        gram = centred.T @ centred + penalty * torch.eye(8, dtype=torch.float64)
        weight = torch.linalg.solve(gram, centred.T @ (targets - targets.mean(0))).T
        torch.testing.assert_close(found.weight, weight, atol=1e-6, rtol=1e-6)
        bias = targets.mean(0) - weight @ data.features.mean(0)
        torch.testing.assert_close(found.bias, bias, atol=1e-6, rtol=1e-6)


def test_the_unit_of_the_features_does_not_matter() -> None:
    data = clouds()
    longer = Labelled(features=100 * data.features, targets=data.targets, exclusive=True)
    for a, b in zip(*(ridge.fit_path(x, ridge.default_settings(x)) for x in (data, longer)), strict=True):
        torch.testing.assert_close(a.scores(data.features), b.scores(longer.features))
