"""Searching one's own photos: `open_index(folder, engine).search("a red car")`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vlp.deploy.index.candidates import Candidate, PhotoSource
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.local_photos import LocalPhotos
from vlp.deploy.index.near_copies import fold_near_copies
from vlp.deploy.index.photo_files import thumbnail_jpeg
from vlp.deploy.index.query import Filter, Picture, Region, embed_query
from vlp.deploy.index.store import Store, check_engine
from vlp.system.errors import UserError

MAX_THUMBNAIL = 2048  # pixels
MAX_RESULTS = 10_000  # k + offset


@dataclass(frozen=True)
class Hit:
    """id: for `thumbnail`, and never another photo's.  score: dot product of the query with the photo's embedding, -1 to 1.
    taken: EXIF's date and time, as 2024-05-01T12:30:00.  copies: paths of files that are equal to this one, or near copies."""

    id: int
    path: str
    score: float
    taken: str | None = None
    copies: tuple[str, ...] = ()


def open_index(folder: str | Path, engine: EmbeddingEngine) -> Index:
    """Raises FileNotFoundError where there is no index, UserError where another engine made it."""
    store = Store(Path(folder))
    check_engine(store.manifest, engine.fingerprint, store.folder)
    return Index(LocalPhotos(store), engine)


class Index:
    """Photos to search. All methods are thread-safe, and see what another process has committed meanwhile."""

    def __init__(self, photos: PhotoSource, engine: EmbeddingEngine) -> None:
        self.photos, self.engine = photos, engine

    @property
    def count(self) -> int:
        """Photos that can be found; copies count."""
        return self.photos.count_photos()

    def search(
        self,
        text: str | None = None,
        photo: Picture | int | None = None,
        k: int = 20,
        offset: int = 0,
        *,
        without: Sequence[str] = (),
        weight: float = 0.5,
        region: Region | None = None,
        folder: str | None = None,
        since: str | None = None,
        until: str | None = None,
        fold: bool = True,
        exact: bool | None = None,
    ) -> list[Hit]:
        """The photos that come `offset` places after the best, at most `k`, by descending score.

        text: a caption; one that begins with + or −, as "+a beach −people", has terms to find and to avoid.  photo: path,
        bytes, Pillow image, or the id of a hit.  without, weight, region: see `embed_query`.  folder, since, until: see `Filter`.
        fold: equal and near-equal photos are one hit, with their paths in `copies`; without it each file is a hit.
        exact: compare all photos; None = where there are few, and else those that signs propose.

        Raises UserError for a query that cannot be answered, as ImageError (vlp/data/images.py) for its photo.
        """
        if k < 1 or offset < 0 or k + offset > MAX_RESULTS:
            raise UserError(
                f"k={k}, offset={offset}: expected k from 1, offset from 0, and at most {MAX_RESULTS:,} together"
            )
        among = Filter(folder=folder, since=since, until=until)
        picture = self._photo(photo).vector if isinstance(photo, int) else photo
        query = embed_query(self.engine, text=text, photo=picture, without=without, weight=weight, region=region)
        return self.search_vector(query, k, offset, among=among, fold=fold, exact=exact)

    def search_vector(
        self,
        query: Float32[np.ndarray, " e"],
        k: int,
        offset: int = 0,
        *,
        among: Filter | None = None,
        fold: bool = True,
        exact: bool | None = None,
    ) -> list[Hit]:
        """As `search`, for a unit vector."""
        wanted = k + offset
        count = 2 * wanted + 30
        while True:  # of many copies, or embeddings whose photos were deleted, more have to be asked for
            found, is_all = self.photos.nearest(query, count, among or Filter(), exact=exact)
            groups = _group(found) if fold else [[candidate] for candidate in found]
            if is_all or len(groups) >= wanted:
                return [_hit(group) for group in groups[offset:wanted]]
            count *= 4

    def thumbnail(self, id: int, size: int = 256) -> bytes:
        """A JPEG of at most `size` pixels a side.  Raises UserError: no photo has this id, or its file is missing or damaged."""
        if not 1 <= size <= MAX_THUMBNAIL:
            raise UserError(f"a thumbnail of {size} pixels: choose from 1 to {MAX_THUMBNAIL}")
        return thumbnail_jpeg(self._photo(id).path, size)

    def _photo(self, id: int) -> Candidate:
        photo = self.photos.photo(id)
        if photo is None:
            raise UserError(f"no photo has the id {id}: it was deleted, or belongs to another index")
        return photo

    def close(self) -> None:
        self.photos.close()


def _group(found: list[Candidate]) -> list[list[Candidate]]:
    """Copies and near copies together, in order of the best of each."""
    files: dict[int | str, list[Candidate]] = {}
    for candidate in found:
        files.setdefault(candidate.content, []).append(candidate)
    if not files:
        return []
    contents = list(files.values())
    hashes = np.stack([copies[0].hash for copies in contents])
    groups = fold_near_copies(hashes, np.stack([copies[0].vector for copies in contents]))
    return [[candidate for index in group for candidate in contents[index]] for group in groups]


def _hit(group: list[Candidate]) -> Hit:
    first, *others = group
    return Hit(first.id, first.path, first.score, first.taken, tuple(other.path for other in others))
