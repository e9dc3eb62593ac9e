"""Which samples a classifier gets that is fitted to few labels: nested subsets, so that 1 % lies in 10 % and one shot in two.

A draw depends on the seed, its number and the split alone: every method and every checkpoint gets the same images.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlp.random import SUBSET_KEY, permutation

SHOTS_KEY, RESERVED_KEY = 1, 3  # what a permutation is for, mixed into its seed; fractions have SUBSET_KEY


def shots(targets: Bool[Tensor, "n c"], count: int, *, seed: int, draw: int) -> Int[Tensor, " m"]:
    """Positions of `count` samples of each class, all of a class that has fewer. Of several classes a sample counts for each
    that still needs one, so there are at least `count` of each and at most that many chosen for it."""
    order = permutation(len(targets), seed, SHOTS_KEY, draw)
    chosen: dict[int, None] = {}
    for label in range(targets.shape[1]):
        members = order[targets[order, label]]
        chosen.update(dict.fromkeys(members[:count].tolist()))
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def fraction(length: int, share: int | float, *, seed: int, draw: int) -> Int[Tensor, " m"]:
    """Positions of a share (0 to 1) of the samples, rounded, at least one; a training has the same by `data.max_train_samples` and
    `data.train_draw`."""
    count = min(length, max(1, math.floor(share * length + 0.5)))
    return permutation(length, seed, SUBSET_KEY, draw)[:count].sort().values


def reserved(length: int, share: int | float, *, seed: int) -> Bool[Tensor, " n"]:
    """True for the share of the training samples that settings are chosen on where the data have no val: the same for every
    draw."""
    mask = torch.zeros(length, dtype=torch.bool)
    mask[permutation(length, seed, RESERVED_KEY)[: max(1, math.floor(share * length + 0.5))]] = True
    return mask
