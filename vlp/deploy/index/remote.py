"""The same search where another engine keeps the photos: Qdrant and LanceDB, for more of them than one machine holds.

A collection is named after the model that made its embeddings, so that another model finds none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from vlp.deploy.index.candidates import PhotoSource
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.photo_index import Index
from vlp.deploy.index.photo_rows import PhotoRows
from vlp.deploy.index.store import StoreManifest
from vlp.system.errors import UserError

ENGINES = ("qdrant", "lancedb")


@runtime_checkable
class RemotePhotos(PhotoSource, Protocol):
    def write(self, rows: PhotoRows) -> None:
        """Adds photos; one whose id is there already is replaced."""
        ...

    def finish(self) -> None:
        """After the last write: builds what makes the search of many photos fast."""
        ...


def is_remote(store: str | Path) -> bool:
    return str(store).partition(":")[0] in ENGINES


def connect_remote(store: str, manifest: StoreManifest, *, create: bool = False, replace: bool = False) -> RemotePhotos:
    """store: qdrant:URL, qdrant:DIR or lancedb:DIR (or s3://…).  create: makes the collection if it is missing.  replace: what it
    holds is removed first.  Raises UserError."""
    kind, _, address = store.partition(":")
    if not address or kind not in ENGINES:
        raise UserError(f"{store}: expected qdrant:URL, qdrant:DIR or lancedb:DIR")
    if kind == "qdrant":
        from vlp.deploy.index.qdrant_photos import QdrantPhotos

        return QdrantPhotos(address, manifest, create=create, replace=replace)
    from vlp.deploy.index.lance_photos import LancePhotos

    return LancePhotos(address, manifest, create=create, replace=replace)


def open_remote_index(store: str, engine: EmbeddingEngine) -> Index:
    """Raises UserError where there is no collection of this engine."""
    if engine.width is None:
        raise UserError(f"{store}: the model embeds no images, so photos cannot be searched with it")
    return Index(connect_remote(store, StoreManifest(fingerprint=engine.fingerprint, width=engine.width)), engine)


def copy_rows(photos: RemotePhotos, batches: Iterable[PhotoRows]) -> int:
    """Returns how many photos were written."""
    count = 0
    for rows in batches:
        photos.write(rows)
        count += len(rows)
    photos.finish()
    photos.close()
    return count


def collection_name(manifest: StoreManifest) -> str:
    return f"vlp_{manifest.fingerprint[:16]}"


def missing_collection(address: str, name: str, existing: Iterable[str]) -> UserError:
    others = sorted(other for other in existing if other.startswith("vlp_"))
    if others:
        return UserError(
            f"{address} holds photos of another model ({', '.join(others)}, not {name}): search with --engine of that model, or "
            "copy the index of this one there with `vlp index --copy-to`"
        )
    return UserError(f"{address} holds no photos; copy an index there with `vlp index --copy-to`")
