"""Ridge regression on targets of ±1, for all penalties from one eigendecomposition.

big_vision (google-research/big_vision, evaluators/fewshot_lsr.py) measures few-shot accuracy so; its constant feature of 100 is
here the limit, a bias without penalty: features and targets are centred.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlp.models.probes.labelled import Labelled, LinearClassifier, row_space

RELATIVE_PENALTIES = tuple(2.0**power for power in range(15, -16, -1))  # 31, the strongest first


def default_settings(train: Labelled) -> tuple[float, ...]:
    """λ as multiples of the mean squared length of the centred features, so that their unit does not matter."""
    length = float(train.centred()[0].square().sum(1).mean()) or 1.0
    return tuple(length * penalty for penalty in RELATIVE_PENALTIES)


def fit(train: Labelled, setting: float) -> LinearClassifier:
    return fit_path(train, [setting])[0]


def fit_path(train: Labelled, settings: Sequence[float]) -> list[LinearClassifier]:
    """The minimiser of Σ (x·w + b − y)² + λ w² with y = ±1, for each λ of `settings`."""
    centred, mean = train.centred()
    targets = 2 * train.targets.double() - 1
    target_mean = targets.mean(0)
    directions, eigenvalues = row_space(centred)
    projected = directions.T @ (centred.T @ (targets - target_mean))  # r c
    fitted = []
    for penalty in settings:
        weight = (directions @ (projected / (eigenvalues + penalty)[:, None])).T
        fitted.append(LinearClassifier(weight=weight, bias=target_mean - weight @ mean[0]))
    return fitted
