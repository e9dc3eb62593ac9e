"""The nearest class mean: cosine with the mean of a class's features of unit length (Mensink et al., TPAMI 2013; the prototypes
of Snell et al., arXiv:1703.05175). Where a sample may have several classes, each class is the nearer of two means, of the
samples with and without it. There is nothing to choose."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.models.probes.labelled import Labelled, LinearClassifier


def default_settings(train: Labelled) -> tuple[float, ...]:
    return (0.0,)  # without meaning


def fit(train: Labelled, setting: float) -> LinearClassifier:
    return fit_path(train, [setting])[0]


def fit_path(train: Labelled, settings: Sequence[float]) -> list[LinearClassifier]:
    """A class without a sample has a score of 0, that of an orthogonal direction."""
    unit, shown = F.normalize(train.features.double(), dim=1), train.targets.double()
    with_class = _means(unit, shown)
    if train.exclusive:
        weight = F.normalize(with_class, dim=1)
        return [LinearClassifier(weight=weight, bias=weight.new_zeros(len(weight)))] * len(settings)
    without = _means(unit, 1 - shown)
    weight = with_class - without
    return [LinearClassifier(weight=weight, bias=-(weight * (with_class + without)).sum(1) / 2)] * len(settings)


def _means(features: Float[Tensor, "n d"], members: Float[Tensor, "n c"]) -> Float[Tensor, "c d"]:
    return members.T @ features / members.sum(0).clamp(min=1)[:, None]
