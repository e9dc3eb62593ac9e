"""What a search needs of wherever the photos are: an index of this machine, Qdrant or LanceDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt64

from vlp.deploy.index.query import Filter
from vlp.deploy.index.store import StoreManifest


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """score: dot product with the query.  content: equal for files of equal bytes.  hash: see `picture_hashes`."""

    id: int
    path: str
    taken: str | None
    score: float
    content: int | str
    hash: UInt64[np.ndarray, " 2"]
    vector: Float32[np.ndarray, " e"]


@runtime_checkable
class PhotoSource(Protocol):
    """All methods are thread-safe."""

    manifest: StoreManifest

    def count_photos(self) -> int: ...

    def nearest(
        self, query: Float32[np.ndarray, " e"], count: int, among: Filter, *, exact: bool | None
    ) -> tuple[list[Candidate], bool]:
        """The best `count` embeddings' photos, best first, ties in a fixed order; and whether there are no others."""
        ...

    def photo(self, id: int) -> Candidate | None: ...

    def close(self) -> None: ...
