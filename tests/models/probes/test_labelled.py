from __future__ import annotations

import pytest
import torch

from tests.models.probes.examples import clouds
from vlp.models.probes import ridge
from vlp.models.probes.labelled import fit_scaling, row_space


@pytest.mark.parametrize("kind", ["none", "standard"])
def test_a_classifier_of_scaled_features_reads_them_unscaled(kind: str) -> None:
    data = clouds()
    scaling = fit_scaling(kind, data.features)
    fitted = ridge.fit(scaling.of(data), 0.5)
    torch.testing.assert_close(fitted.scores(scaling(data.features)), fitted.unscaled(scaling).scores(data.features))


def test_scalings() -> None:
    features = torch.tensor([[3.0, 4.0, 1.0], [0.0, 2.0, 1.0]])
    torch.testing.assert_close(fit_scaling("unit", features)(features).norm(dim=1), torch.ones(2, dtype=torch.float64))
    standard = fit_scaling("standard", features)(features)
    expected = torch.tensor([[1.0, 1, 0], [-1, -1, 0]], dtype=torch.float64)
    torch.testing.assert_close(standard, expected)  # a constant feature is 0
    with pytest.raises(ValueError, match="choose one of unit, none, standard"):
        fit_scaling("max", features)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_row_space_holds_every_row(shape: tuple[int, int]) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows - rows.mean(0)  # of rank 4 and 5
    directions, values = row_space(rows)
    assert directions.shape[1] == min(shape[0] - 1, 5)
    torch.testing.assert_close(rows @ directions @ directions.T, rows)
    torch.testing.assert_close((rows @ directions).square().sum(0), values)
