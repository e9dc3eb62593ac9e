"""Equal inputs get the very same results: each different one is computed once in a call of a verb (see vlp.models.equal_inputs)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Int, UInt8

from vlp.system.errors import UserError

T = TypeVar("T")


def pixel_keys(pixels: UInt8[np.ndarray, "b 3 h w"]) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in pixels]


def text_keys(ids: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"]) -> list[bytes]:
    """Of the real tokens, whatever the padding is."""
    return [row[real].tobytes() for row, real in zip(ids, mask, strict=True)]


class Results(Generic[T]):
    """Those of a call by the content of their inputs."""

    def __init__(self) -> None:
        self._known: dict[bytes, T] = {}

    def get(self, keys: Sequence[bytes], compute: Callable[..., Iterable[T]], *inputs: Any) -> list[T]:
        """One for each key.  compute: results of those rows of the inputs that are new and different."""
        first: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            if key not in self._known:
                first.setdefault(key, position)
        if first:
            rows = list(first.values())
            self._known.update(zip(first, compute(*(each[rows] for each in inputs)), strict=True))
        return [self._known[key] for key in keys]


def require_finite(values: np.ndarray, name: str) -> np.ndarray:
    """The same values.  Raises UserError where one is NaN or infinite, as `vlp.structures.require_finite`."""
    if not np.isfinite(values).all():
        raise UserError(f"{name} contain NaN or infinity: the model has diverged; export an earlier checkpoint")
    return values
