"""Stateless randomness: every draw is a function of integers such as (run seed, epoch, sample), never of history.

So augmentation, masking and negatives are the same whatever the worker, the rank or the point of a restart.
The mixing function is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MASK = (1 << 64) - 1


def mix(*keys: int) -> int:
    """A 63-bit integer from any integers; a change of one bit of one key changes half of the result's bits."""
    state = 0
    for key in keys:
        state = (state + (key & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def permutation(length: int, *keys: int) -> torch.Tensor:
    """A permutation of 0 … length-1 that depends on the keys alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mix(*keys)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's and Python's global generators set by `seed` inside, and restored outside (transforms draw from them)."""
    python_state = python_random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        python_random.seed(seed)
        try:
            yield
        finally:
            python_random.setstate(python_state)
