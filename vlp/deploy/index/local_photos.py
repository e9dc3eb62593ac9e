"""The photos of an index of this machine, as a search needs them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from jaxtyping import Float32, Int

from vlp.deploy.index.candidates import Candidate
from vlp.deploy.index.nearest import nearest_rows
from vlp.deploy.index.query import Filter
from vlp.deploy.index.store import IndexedPhoto, Rows, Store

_SOME = 500  # values of one SQL statement


class LocalPhotos:
    def __init__(self, store: Store) -> None:
        self.store, self.manifest = store, store.manifest

    def count_photos(self) -> int:
        return self.store.count

    def nearest(
        self, query: Float32[np.ndarray, " e"], count: int, among: Filter, *, exact: bool | None = None
    ) -> tuple[list[Candidate], bool]:
        rows = self.store.rows
        allowed = None if among.is_empty else self._rows_of(among, len(rows))
        considered = len(rows) if allowed is None else len(allowed)
        ranked, scores = nearest_rows(rows, query, count, allowed=allowed, exact=exact)
        photos = self._photos_of(ranked, among)
        found = [
            _candidate(photo, rows, score)
            for row, score in zip(ranked.tolist(), scores.tolist(), strict=True)
            for photo in photos.get(row, ())  # none: the photo was deleted
        ]
        return found, count >= considered

    def photo(self, id: int) -> Candidate | None:
        found = self.store.query("select id, path, row, taken from photos where id = ? and row is not null", (id,))
        return _candidate(IndexedPhoto(*found[0]), self.store.rows, 1.0) if found else None

    def _rows_of(self, among: Filter, count: int) -> Int[np.ndarray, " a"]:
        """Ascending; of the rows that are mapped."""
        condition, values = among.condition()
        found = self.store.query(
            f"select distinct row from photos where {condition} and row < ? order by row", [*values, count]
        )
        return np.array([row for (row,) in found], dtype=np.int64)

    def _photos_of(self, rows: Int[np.ndarray, " m"], among: Filter) -> dict[int, list[IndexedPhoto]]:
        """The photos of each row that a filter leaves, in order of path."""
        condition, values = among.condition()
        photos: dict[int, list[IndexedPhoto]] = defaultdict(list)
        numbers = rows.tolist()
        for start in range(0, len(numbers), _SOME):
            some = numbers[start : start + _SOME]
            marks = ",".join("?" * len(some))
            statement = f"select id, path, row, taken from photos where row in ({marks}) and {condition} order by path"
            for record in self.store.query(statement, [*some, *values]):
                photos[record[2]].append(IndexedPhoto(*record))
        return photos

    def close(self) -> None:
        self.store.close()


def _candidate(photo: IndexedPhoto, rows: Rows, score: float) -> Candidate:
    return Candidate(
        id=photo.id, path=photo.path, taken=photo.taken, score=score, content=photo.row, hash=np.asarray(rows.hashes[photo.row]),
        vector=rows.vectors[photo.row].astype(np.float32),
    )  # fmt: skip
