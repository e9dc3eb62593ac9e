"""Features with their classes, and the linear classifiers that are fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.system.errors import UserError

SCALINGS = ("unit", "none", "standard")
Criterion = Callable[[Tensor, Tensor], float]  # of scores [n c] and targets [n c]; higher is better


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """n samples with features of width d and c classes.  exclusive: each sample has exactly one class; else any number."""

    features: Float[Tensor, "n d"]
    targets: Bool[Tensor, "n c"]
    exclusive: bool

    def __len__(self) -> int:
        return len(self.features)

    def select(self, rows: Any) -> Labelled:
        return Labelled(features=self.features[rows], targets=self.targets[rows], exclusive=self.exclusive)

    def join(self, other: Labelled) -> Labelled:
        return Labelled(
            features=torch.cat([self.features, other.features]),
            targets=torch.cat([self.targets, other.targets]),
            exclusive=self.exclusive,
        )

    def centred(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "1 d"]]:
        """The features minus their mean, in float64, and the mean."""
        mean = self.features.double().mean(0, keepdim=True)
        return self.features.double() - mean, mean


@dataclass(frozen=True, kw_only=True)
class LinearClassifier:
    """weight, bias: of each class, in the space of the features that it was fitted to."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return F.linear(features.to(self.weight.dtype), self.weight, self.bias)

    def unscaled(self, scaling: Scaling) -> LinearClassifier:
        """The same scores from features that are not yet standardised."""
        weight = self.weight if scaling.deviation is None else self.weight / scaling.deviation
        shift = 0.0 if scaling.mean is None else weight @ scaling.mean[0]
        return LinearClassifier(weight=weight, bias=self.bias - shift)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a classifier reads: unit = features of length 1; none = as they are; standard = each of mean 0 and deviation 1 over
    the training samples, whose mean and deviation [1 d] these are."""

    kind: str
    mean: Float[Tensor, "1 d"] | None = None
    deviation: Float[Tensor, "1 d"] | None = None

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        if self.kind == "unit":
            return F.normalize(features.double(), dim=1)
        if self.mean is None or self.deviation is None:
            return features.double()
        return (features.double() - self.mean) / self.deviation

    def of(self, data: Labelled) -> Labelled:
        return Labelled(features=self(data.features), targets=data.targets, exclusive=data.exclusive)


def fit_scaling(kind: str, features: Float[Tensor, "n d"]) -> Scaling:
    """kind: one of SCALINGS.  Raises UserError for another."""
    check_scaling(kind)
    if kind != "standard":
        return Scaling(kind=kind)
    mean = features.double().mean(0, keepdim=True)
    deviation = (features.double() - mean).square().mean(0, keepdim=True).sqrt()
    return Scaling(kind=kind, mean=mean, deviation=torch.where(deviation > 0, deviation, 1.0))  # a constant one stays 0


def check_scaling(kind: str) -> None:
    if kind not in SCALINGS:
        raise UserError(f"scaling={kind}: choose one of {', '.join(SCALINGS)}")


def row_space(centred: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d r"], Float[Tensor, " r"]]:
    """Orthonormal directions that the rows span and the eigenvalues of XᵀX along them, from the smaller Gram matrix: a
    penalised solution lies in this space, which a few samples of many features make small."""
    wide = centred.shape[0] < centred.shape[1]
    gram = centred @ centred.T if wide else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    values, vectors = values[kept], vectors[:, kept]
    return (centred.T @ vectors / values.sqrt() if wide else vectors), values
