"""Votes of the nearest training samples by cosine, weighted by exp(cosine / T), as DINO and DINOv2 measure features
(Wu et al., arXiv:1805.01978, section 3.4; facebookresearch/dinov2, eval/knn.py). Nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.models.probes.labelled import Labelled

NEIGHBOURS = (10, 20, 100, 200)  # dinov2's
TEMPERATURE = 0.07
QUERIES_PER_STEP = 4096


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours:
    """k: how many training samples vote, all where there are fewer."""

    train: Labelled
    k: int
    temperature: float = TEMPERATURE

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """The share of the votes that each class has; with several classes a sample, the share of voters that show it."""
        unit = F.normalize(self.train.features.double(), dim=1)
        votes = self.train.targets.double()
        results = []
        for part in F.normalize(features.double(), dim=1).split(QUERIES_PER_STEP):
            best, index = (part @ unit.T).topk(min(self.k, len(unit)), dim=1)
            share = ((best - best[:, :1]) / self.temperature).exp()
            results.append(((share / share.sum(1, keepdim=True))[..., None] * votes[index]).sum(1))
        return torch.cat([votes[:0], *results])


def default_settings(train: Labelled) -> tuple[float, ...]:
    """k, without those that are equal to a smaller one for so few samples."""
    fewer = [k for k in NEIGHBOURS if k < len(train)]
    return tuple(float(k) for k in NEIGHBOURS[: len(fewer) + 1])


def fit(train: Labelled, setting: int | float) -> NearestNeighbours:
    return fit_path(train, [setting])[0]


def fit_path(train: Labelled, settings: Sequence[int | float]) -> list[NearestNeighbours]:
    return [NearestNeighbours(train=train, k=int(k)) for k in settings]
