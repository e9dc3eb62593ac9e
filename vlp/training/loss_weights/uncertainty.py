"""Learned weights of the losses by homoscedastic uncertainty: L e^{-s} + s / 2 for each loss L, with s = log σ².

Kendall et al., arXiv:1705.07115, equations 7 and 10. At its best, e^{-s} = 1 / (2 L): every loss then counts as much as the others,
however large it is. A weight of an objective, fixed or scheduled, multiplies both terms. The losses must not be negative,
and one that reaches 0 is weighted without bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class UncertaintyWeights(nn.Module):
    """names: of the objectives that are trained. Each begins with a variance of 1, that is with its loss as it is."""

    def __init__(self, *, names: Sequence[str]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, name: str, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What is summed in place of the loss."""
        log_variance = self.log_variance[name]
        return loss * (-log_variance).exp() + log_variance / 2

    @torch.no_grad()
    def weights(self) -> dict[str, Float[Tensor, ""]]:
        """e^{-s} of each objective."""
        return {name: (-value).exp() for name, value in self.log_variance.items()}
