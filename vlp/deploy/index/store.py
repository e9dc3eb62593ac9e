"""An index on disk, as readers see it: embeddings, their signs and perceptual hashes, one row each, and the photos in SQLite.

    STORE/manifest.json                the engine's fingerprint and folder, the width of a row
          photos.sqlite                vlp/deploy/index/tables.py
          vectors-0.float16  hashes-0.uint64  signs-12000.bits

Rows are only ever appended, so a reader needs no lock: it reads the number of rows once, and memory-maps so many.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, UInt8, UInt64

from vlp.deploy.index.signs import sign_bytes
from vlp.deploy.index.tables import FILE, connect, read_state
from vlp.system.errors import UserError
from vlp.system.json_files import read_json_object

MANIFEST = "manifest.json"
LOCK = ".lock"  # of writers
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """fingerprint: of the engine that made the embeddings.  artifact: its folder when the index was made, if it has one.
    width: of an embedding."""

    fingerprint: str
    width: int
    artifact: str | None = None
    format: int = FORMAT


def refuse_other_content(folder: Path) -> None:
    """Raises UserError where the place of an index, which has no manifest, is a file or a folder of something else."""
    if folder.is_file():
        raise UserError(f"{folder} is a file, and an index is a folder: give a new folder with --store")
    if folder.is_dir() and any(file.name != LOCK for file in folder.iterdir()):
        raise UserError(f"{folder} holds other files and is no index: give a new folder with --store")


def read_manifest(folder: Path) -> StoreManifest:
    """Raises FileNotFoundError where there is no index, UserError where it is of another version or damaged."""
    file = folder / MANIFEST
    if not file.is_file():
        refuse_other_content(folder)
        raise FileNotFoundError(
            f"{folder}: there is no index; make it with `vlp index PHOTOS --engine ARTIFACT --store {folder}`"
        )
    content = read_json_object(file)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{file}: format {content.get('format')!r}, this vlp reads {FORMAT}; index the photos into another folder with --store"
        )
    names = {field.name for field in dataclasses.fields(StoreManifest)}
    try:
        return StoreManifest(**{name: value for name, value in content.items() if name in names})
    except TypeError as error:
        raise UserError(f"{file}: damaged ({error}); delete {folder} and index the photos again") from error


def check_engine(manifest: StoreManifest, fingerprint: str, folder: Path) -> None:
    """Raises UserError where the index was made by another engine: its embeddings mean something else."""
    if manifest.fingerprint != fingerprint:
        raise UserError(
            f"{folder}: was made by another model ({manifest.fingerprint[:12]}, not {fingerprint[:12]}): search with "
            f"--engine {manifest.artifact or 'of that model'}, or index again with "
            f"`vlp index --engine NEW --store {folder} --again`"
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a reader sees of n rows; memory-mapped.  mean: of the rows that existed when the signs were made last."""

    vectors: Float16[np.ndarray, "n e"]
    signs: UInt8[np.ndarray, "n s"]
    hashes: UInt64[np.ndarray, "n 2"]  # see `near_copies.picture_hashes`
    mean: Float32[np.ndarray, " e"]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclasses.dataclass(frozen=True)
class IndexedPhoto:
    """taken: EXIF's date and time, as 2024-05-01T12:30:00."""

    id: int
    path: str
    row: int
    taken: str | None


class Store:
    """Reads an index; all methods are thread-safe.  Raises FileNotFoundError, UserError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if not (folder / FILE).is_file():
            raise FileNotFoundError(f"{folder / FILE}: missing; delete {folder} and index the photos again")
        self._lock = threading.Lock()
        self._connection = connect(folder)
        self._seen: tuple[int, Rows] | None = None

    def close(self) -> None:
        self._connection.close()

    @property
    def rows(self) -> Rows:
        """As of the last commit of any process."""
        with self._lock:
            version = self._connection.execute("pragma data_version").fetchone()[0]
            if self._seen is None or self._seen[0] != version:
                self._seen = version, self._map_rows()
            return self._seen[1]

    def _map_rows(self) -> Rows:
        for last in (False, False, True):
            try:
                return map_rows(self.folder, read_state(self._connection), self.manifest.width)
            except FileNotFoundError:  # a writer has replaced the signs since the state was read
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    @property
    def count(self) -> int:
        """Photos that can be found."""
        return int(self.query("select count(*) from photos where row is not null")[0][0])

    def roots(self) -> list[str]:
        return [path for (path,) in self.query("select path from roots order by path")]

    def errors(self) -> list[tuple[str, str]]:
        """Path and reason of each file that cannot be searched."""
        return self.query("select path, error from photos where error is not null order by path")  # type: ignore[return-value]


def map_rows(folder: Path, state: dict[str, Any], width: int) -> Rows:
    """Raises FileNotFoundError where a file of vectors is missing, UserError where one is too short."""
    count = int(state.get("rows", 0))
    mean = np.frombuffer(state["mean"], dtype=np.float32) if "mean" in state else np.zeros(width, dtype=np.float32)
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "vectors": (np.float16, (count, width)),
        "signs": (np.uint8, (count, sign_bytes(width))),
        "hashes": (np.uint64, (count, 2)),
    }
    return Rows(mean=mean, **{name: map_file(folder / str(state[name]), *shape) if count else np.zeros(shape[1], shape[0])
                              for name, shape in shapes.items()})  # fmt: skip


def map_file(file: Path, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Raises UserError where the file is shorter than the tables say."""
    needed = int(np.prod(shape)) * np.dtype(kind).itemsize
    if file.stat().st_size < needed:
        raise UserError(
            f"{file}: {file.stat().st_size:,} bytes where {needed:,} belong, the file was cut off or copied in part; delete "
            f"{file.parent} and index the photos again"
        )
    return np.memmap(file, dtype=kind, mode="r", shape=shape)
