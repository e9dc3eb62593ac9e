"""Photos with their embeddings, as they pass from an index or the parts of many machines to another engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, UInt64

from vlp.deploy.index.store import Store

BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class PhotoRows:
    """Of b photos.  ids: up to 63 bits.  hashes: see `picture_hashes`.  digests: of the files' bytes."""

    ids: list[int]
    paths: list[str]
    taken: list[str | None]
    digests: list[bytes]
    vectors: Float16[np.ndarray, "b e"]
    hashes: UInt64[np.ndarray, "b 2"]

    def __len__(self) -> int:
        return len(self.ids)


def id_of_path(path: str) -> int:
    """For photos that no database numbers, 63 bits: equal on every machine, so that what is copied twice is one photo."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big") >> 1


def store_batches(store: Store) -> Iterator[PhotoRows]:
    """Every photo of an index that can be found, in order of id."""
    rows, last = store.rows, 0
    while True:
        found = store.query(
            "select id, path, taken, digest, row from photos where row is not null and row < ? and id > ? order by id limit ?",
            (len(rows), last, BATCH),
        )
        if not found:
            return
        ids, paths, taken, digests, numbers = map(list, zip(*found, strict=True))
        vectors, hashes = rows.vectors[numbers], np.asarray(rows.hashes[numbers])
        yield PhotoRows(ids=ids, paths=paths, taken=taken, digests=digests, vectors=vectors, hashes=hashes)
        last = ids[-1]
