"""Stateless randomness: every draw is a function of integers such as (run seed, epoch, sample), never of history.

So augmentation, masking and negatives are the same whatever the worker, the rank or the point of a restart.
The mixing function is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

SUBSET_KEY = 2  # mixed into the seed of a permutation whose beginnings are subsets

_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(*keys: int) -> int:
    """A 63-bit integer from any integers; a change of one bit of one key changes half of the result's bits."""
    state = 0
    for key in keys:
        state = (state + (key & _MASK) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state >> 1


def mix_rows(*keys: int | Tensor) -> Tensor:
    """`mix` of int64 tensors, element by element, on their device; they are broadcast against each other."""
    state = torch.zeros((), dtype=torch.int64)  # of no dimension, so it goes with tensors of any device
    for key in keys:
        state = state + key + _signed(_GOLDEN)
        state = (state ^ _shift(state, 30)) * _signed(_FIRST)
        state = (state ^ _shift(state, 27)) * _signed(_SECOND)
        state = state ^ _shift(state, 31)
    return _shift(state, 1)


def uniform(seeds: Int[Tensor, " b"], count: int) -> Float[Tensor, "b n"]:
    """Numbers in (0, 1), odd multiples of 2⁻²⁴, that depend on the row's seed and the column alone."""
    columns = torch.arange(count, device=seeds.device)
    return ((mix_rows(seeds[:, None], columns) >> 40).float() + 0.5) * 2.0**-23


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(state: Tensor, count: int) -> Tensor:
    """The logical shift to the right of a 64-bit word; torch's keeps the sign."""
    return (state >> count) & ((1 << (64 - count)) - 1)


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
