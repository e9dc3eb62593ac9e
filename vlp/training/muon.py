"""Muon with its iterations in float32, for processors that compute bfloat16 by emulation: there torch's own, which iterate in
bfloat16 whatever the precision of the run is, take most of a step (Jordan et al., 2024, kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonalize(
    matrix: Float[Tensor, "m n"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "m n"]:
    """U S Vᵀ with singular values S of about 0.7 to 1.2 in place of the matrix's own, by Newton-Schulz iterations
    X ← aX + b(XXᵀ)X + c(XXᵀ)²X, from a matrix of Frobenius norm 1."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Float32Muon(torch.optim.Muon):
    """As torch's, with the same state, but for the precision of the iterations."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                average, gradient = state["momentum_buffer"], parameter.grad
                average.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
                update = orthogonalize(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter), alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
        return loss
