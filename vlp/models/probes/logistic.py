"""Logistic regression by L-BFGS in float64, with scikit-learn's objective: C Σ loss + ½ |W|², the bias without penalty.

The loss is the cross-entropy of a softmax, of one sigmoid for two classes, and of a sigmoid for each class where a sample may
have several. L-BFGS works in the space that the features span, with each direction scaled by the curvature at the start
(1 + C h e, e the eigenvalue of XᵀX, h that of the loss's Hessian), which leaves the solution as it is and takes fewer steps;
weaker penalties start from the solution before. The last digits are Newton's by conjugate gradients, since rounding of the loss
ends a line search first (Nocedal and Wright, Numerical Optimization, 2006, 7.1 and 7.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.models.probes.labelled import Labelled, LinearClassifier, row_space

RELATIVE_C = tuple(10 ** (power / 2) for power in range(-3, 10))  # 13, the strongest penalty first
MAX_STEPS, NEWTON_STEPS, CONJUGATE_STEPS = 300, 20, 200
ACCURACY = 1e-6  # of the weights of `fit`, as far as float64 goes
DRAFT = 1e-2  # of those of `fit_path`, which are compared with one another
DRAFT_GRADIENT = 1e-6  # of the mean loss, below which none of these is improved (scikit-learn ends at 1e-4)


def default_settings(train: Labelled) -> tuple[float, ...]:
    """C for features of mean squared length 1; divided by that of the centred features, so that their unit does not matter."""
    length = float(train.centred()[0].square().sum(1).mean()) or 1.0
    return tuple(c / length for c in RELATIVE_C)


def fit(train: Labelled, setting: float, prior: Float[Tensor, "c d"] | None = None) -> LinearClassifier:
    """The solution for one C, as `fit_path` with the default accuracy."""
    return fit_path(train, [setting], prior, accuracy=ACCURACY)[0]


def fit_path(
    train: Labelled,
    settings: Sequence[float],
    prior: Float[Tensor, "c d"] | None = None,
    *,
    accuracy: float = DRAFT,
) -> list[LinearClassifier]:
    """The solution for each C of `settings`, in ascending order.  prior: weights that the penalty pulls towards, ½ |W − W₀|²;
    None = 0.  accuracy: the largest error of a weight, by the gradient and the penalty's curvature 1 / (C n)."""
    least = DRAFT_GRADIENT if accuracy >= DRAFT else 0.0
    centred, mean = train.centred()
    directions, eigenvalues = row_space(centred)
    rotated = centred @ directions  # n r
    one_sigmoid = train.exclusive and train.targets.shape[1] == 2 and prior is None
    targets = (train.targets[:, 1:] if one_sigmoid else train.targets).double()
    offset = torch.zeros_like(targets) if prior is None else centred @ prior.double().T
    softmax = train.exclusive and not one_sigmoid
    curvature = 1 / targets.shape[1] if softmax else 0.25
    weight, bias = targets.new_zeros(targets.shape[1], len(eigenvalues)), targets.new_zeros(targets.shape[1])
    fitted = []
    for c in settings:
        scale = torch.cat(
            [1 + c * curvature * eigenvalues, eigenvalues.new_tensor([c * curvature * len(train)])]
        ).rsqrt()
        start = torch.cat([weight, bias[:, None]], 1) / scale
        objective = _Objective(rotated, targets, offset, scale, c, softmax)
        solution = scale * _minimise(objective, start, tolerance=max(accuracy / (c * len(train)), least))
        weight, bias = solution[:, :-1], solution[:, -1]
        full = weight @ directions.T + (0 if prior is None else prior.double())
        shift = bias - full @ mean[0]
        if one_sigmoid:
            full, shift = torch.cat([-full, full]) / 2, torch.cat([-shift, shift]) / 2
        fitted.append(LinearClassifier(weight=full, bias=shift))
    return fitted


class _Objective:
    """The mean loss + |w|² / (2 C n), as a function of the scaled weights and bias (the last column)."""

    def __init__(
        self, rotated: Float[Tensor, "n r"], targets: Float[Tensor, "n c"], offset: Float[Tensor, "n c"],
        scale: Float[Tensor, " rows"], c: float, softmax: bool,
    ) -> None:  # fmt: skip
        self.design = torch.cat([rotated, rotated.new_ones(len(rotated), 1)], 1) * scale
        self.targets, self.offset, self.softmax = targets, offset, softmax
        self.decay = scale.square() / c  # of a scaled weight's gradient
        self.decay[-1] = 0

    def evaluate(self, scaled: Float[Tensor, "c rows"]) -> tuple[float, Float[Tensor, "c rows"]]:
        """Value and gradient."""
        logits = self.design @ scaled.T + self.offset
        if self.softmax:
            logs = logits.log_softmax(1)
            loss, self.share = -(self.targets * logs).sum(), logs.exp()
        else:
            loss = F.binary_cross_entropy_with_logits(logits, self.targets, reduction="sum")
            self.share = logits.sigmoid()
        value = loss + (scaled.square() * self.decay).sum() / 2
        gradient = (self.share - self.targets).T @ self.design + scaled * self.decay
        return float(value) / len(self.design), gradient / len(self.design)

    def curve(self, direction: Float[Tensor, "c rows"]) -> Float[Tensor, "c rows"]:
        """The Hessian at the point that was evaluated last, times a direction."""
        change = self.share * (self.design @ direction.T)
        change = change - self.share * (change.sum(1, keepdim=True) if self.softmax else change)
        return (change.T @ self.design + direction * self.decay) / len(self.design)


def _minimise(objective: _Objective, start: Float[Tensor, "c rows"], *, tolerance: float) -> Float[Tensor, "c rows"]:
    """Until no entry of the gradient is above the tolerance, or rounding prevents it."""
    variable = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [variable], max_iter=MAX_STEPS, history_size=20, tolerance_grad=max(tolerance, 1e-7), tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        with torch.no_grad():
            value, variable.grad = objective.evaluate(variable.detach())
        return value

    optimizer.step(closure)
    point = variable.detach()
    gradient = objective.evaluate(point)[1]
    for _ in range(NEWTON_STEPS):
        if float(gradient.abs().max()) <= tolerance:
            break
        step, norm = _solve(objective, gradient), float(gradient.norm())
        for halving in range(8):
            following = objective.evaluate(point - step / 2**halving)[1]
            if float(following.norm()) < norm:
                break
        else:
            break
        point, gradient = point - step / 2**halving, following
    return point


def _solve(objective: _Objective, gradient: Float[Tensor, "c rows"]) -> Float[Tensor, "c rows"]:
    """The Newton step by conjugate gradients, to a thousandth of the gradient."""
    solution, residual = torch.zeros_like(gradient), gradient.clone()
    direction, square = residual.clone(), residual.square().sum()
    enough = 1e-6 * square
    for _ in range(CONJUGATE_STEPS):
        if float(square) <= float(enough):
            break
        curved = objective.curve(direction)
        length = square / (direction * curved).sum()
        solution, residual = solution + length * direction, residual - length * curved
        square, before = residual.square().sum(), square
        direction = residual + square / before * direction
    return solution
