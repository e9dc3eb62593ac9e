"""Dropout on a CPU draws in its own way, with the same mean and from torch's generator."""

from __future__ import annotations

import pytest
import torch

from vlp.models.layers import Dropout, apply_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_scale_and_gradient(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(501, 403, dtype=dtype, requires_grad=True)
    found = apply_dropout(x, probability)
    assert found.dtype == dtype
    share = float((found == 0).float().mean())
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / x.numel()) ** 0.5)
    torch.testing.assert_close(
        found[found != 0].float(), torch.tensor(1 / (1 - probability)).expand_as(found[found != 0]), rtol=4e-3, atol=0
    )
    found.sum().backward()
    assert torch.equal(x.grad, found.detach())


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (apply_dropout(torch.ones(2**20), 0.5) > 0).float()
    for shift in (1, 2, 3, 4, 8):
        assert float((kept[shift:] * kept[:-shift]).mean()) == pytest.approx(0.25, abs=3e-3)


def test_the_seed_decides_and_evaluation_does_not_drop() -> None:
    layer, x = Dropout(0.5), torch.ones(33)
    assert layer.eval()(x) is x
    layer.train()
    first, other = ((torch.manual_seed(seed), layer(x))[1] for seed in (0, 1))
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, other)
    assert torch.equal(apply_dropout(x, 1.0), torch.zeros(33))
