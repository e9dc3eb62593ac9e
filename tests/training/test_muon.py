"""Muon in float32: torch's own steps but for the precision of the iterations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlp.system.errors import UserError
from vlp.training.muon import Float32Muon, orthogonalize
from vlp.training.optimizer import Muon

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 8)])
def test_singular_values_come_near_1_and_the_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrix, COEFFICIENTS, 5, 1e-7)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ found @ right.T
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-4)


def test_steps_are_torchs_but_for_rounding() -> None:
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((16, 8), (6, 10))]
    both = []
    for kind in (torch.optim.Muon, Float32Muon):
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        optimizer = kind(parameters, lr=0.05, weight_decay=0.1, momentum=0.9)
        for step in range(4):
            for index, parameter in enumerate(parameters):
                parameter.grad = torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(10 * step + index)
                )
            optimizer.step()
        both.append([parameter.detach() for parameter in parameters])
    for theirs, ours, start in zip(*both, weights, strict=True):
        assert float((ours - theirs).norm() / (theirs - start).norm()) < 0.02


def test_unknown_precision_of_the_iterations() -> None:
    with pytest.raises(UserError, match=r"optimizer\.iterations='float16': choose bfloat16 or float32"):
        Muon(lr=0.1, iterations="float16")
