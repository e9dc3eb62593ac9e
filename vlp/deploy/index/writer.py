"""The one process that writes an index.

Everything since the last commit is in one SQLite transaction and in memory: a kill loses it and nothing else. A commit appends the
rows to their files, syncs these to the disk, and only then commits the transaction that counts them. So the files are never
shorter than the tables say; where they are longer, they are cut when the next writer opens the index.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt64

from vlp.deploy.index.signs import pack_signs, sign_bytes
from vlp.deploy.index.store import (
    LOCK,
    MANIFEST,
    StoreManifest,
    check_engine,
    map_rows,
    read_manifest,
    refuse_other_content,
)
from vlp.deploy.index.tables import connect, path_range, read_state
from vlp.system.atomic import atomic_write_json, sync_folder
from vlp.system.errors import UserError
from vlp.system.locks import exclusive_lock

CHUNK = 1 << 14  # rows at a time when all signs are made again


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileState:
    """What the tables know of a path: row of its embedding or None, times in ns, and why it cannot be searched."""

    id: int
    row: int | None
    size: int
    changed: int
    checked: int
    digest: bytes | None
    error: str | None


@contextmanager
def open_writer(folder: Path, manifest: StoreManifest, *, again: bool = False) -> Iterator[StoreWriter]:
    """Makes the index if there is none.  again: replaces one of another engine; its list of folders is kept.

    Raises UserError while another process writes it, where it is another engine's, and where the folder holds something else.
    """
    taken = UserError(f"{folder} is being written by another `vlp index`: wait for it, or give another --store")
    if not (folder / MANIFEST).exists():
        refuse_other_content(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / LOCK, lambda: taken):
        roots: list[str] = []
        if (folder / MANIFEST).exists():
            existing = read_manifest(folder)
            if again and existing.fingerprint != manifest.fingerprint:
                roots = clear(folder)
            else:
                check_engine(existing, manifest.fingerprint, folder)
        if not (folder / MANIFEST).exists():
            atomic_write_json(folder / MANIFEST, dataclasses.asdict(manifest))
        writer = StoreWriter(folder, manifest.width)
        try:
            writer.add_roots(roots)
            yield writer
        finally:
            writer.close()


def clear(folder: Path) -> list[str]:
    """Removes all but the lock; returns the folders of photos that were indexed. The manifest goes first: what a kill leaves is
    no index, and says so."""
    connection = connect(folder, create=True)
    roots = [path for (path,) in connection.execute("select path from roots")]
    connection.close()
    for file in sorted(folder.iterdir(), key=lambda file: file.name != MANIFEST):
        if file.name == LOCK:
            continue
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()
    return roots


class StoreWriter:
    """Not thread-safe but for `row_of`, which SQLite itself serialises."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._connection = connect(folder, create=True)
        self._connection.execute(
            "pragma cache_spill = off"
        )  # else a large transaction shuts readers out before its end
        self.state: dict[str, Any] = read_state(self._connection)
        self._vectors: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._remove_leftovers()

    @property
    def row_count(self) -> int:
        """With those that are not committed yet."""
        return int(self.state.get("rows", 0)) + len(self._vectors)

    @property
    def count(self) -> int:
        """Photos that can be found."""
        return int(self._connection.execute("select count(*) from photos where row is not null").fetchone()[0])

    def _remove_leftovers(self) -> None:
        """Cuts what a killed writer appended and did not commit, and removes files that it made and did not name."""
        committed = int(self.state.get("rows", 0))
        sizes = {"vectors": 2 * self.width, "signs": sign_bytes(self.width), "hashes": 16}
        named = {str(self.state[name]): size * committed for name, size in sizes.items() if name in self.state}
        for pattern in ("vectors-*.float16", "signs-*.bits", "hashes-*.uint64"):
            for file in self.folder.glob(pattern):
                if file.name not in named:
                    file.unlink()
                elif file.stat().st_size > named[file.name]:
                    os.truncate(file, named[file.name])
        if committed:
            map_rows(self.folder, self.state, self.width)  # refuses files that are missing or too short

    # -- photos -------------------------------------------------------------------------------------------------------

    def _execute(self, statement: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        if not self._connection.in_transaction:
            self._connection.execute("begin immediate")
        return self._connection.execute(statement, tuple(values))

    def add_roots(self, roots: Iterable[str]) -> None:
        for root in roots:
            self._execute("insert or ignore into roots values (?)", (root,))

    def roots(self) -> list[str]:
        return [path for (path,) in self._connection.execute("select path from roots order by path")]

    def file_state(self, path: str) -> FileState | None:
        columns = "id, row, size, changed, checked, digest, error"
        found = self._connection.execute(f"select {columns} from photos where path = ?", (path,)).fetchone()
        return FileState(**dict(zip(columns.split(", "), found, strict=True))) if found else None

    def row_of(self, digest: bytes) -> int | None:
        """The row of the embedding of a file with this content."""
        found = self._connection.execute("select row from rows where digest = ?", (digest,)).fetchone()
        return int(found[0]) if found else None

    def paths_of(self, digest: bytes) -> list[tuple[int, str]]:
        """id and path of the photos with this content."""
        return self._connection.execute("select id, path from photos where digest = ? and row is not null order by path",
                                        (digest,)).fetchall()  # fmt: skip

    def paths_below(self, root: str) -> list[tuple[int, str]]:
        """id and path of everything known below a folder."""
        return self._connection.execute(
            "select id, path from photos where path >= ? and path < ?", path_range(root)
        ).fetchall()

    def put(
        self, path: str, *, size: int, changed: int, checked: int, digest: bytes | None = None, row: int | None = None,
        taken: str | None = None, error: str | None = None,
    ) -> None:  # fmt: skip
        """What is known of a file from now on; its id stays."""
        self._execute(
            "insert into photos (path, row, size, changed, checked, digest, taken, error) values (?, ?, ?, ?, ?, ?, ?, ?) "
            "on conflict (path) do update set row = excluded.row, size = excluded.size, changed = excluded.changed, "
            "checked = excluded.checked, digest = excluded.digest, taken = excluded.taken, error = excluded.error",
            (path, row, size, changed, checked, digest, taken, error),
        )

    def move(self, id: int, path: str) -> None:
        """What is known under an id belongs to another path; that of the path itself is removed."""
        self._execute("delete from photos where path = ? and id != ?", (path, id))
        self._execute("update photos set path = ? where id = ?", (path, id))

    def remove(self, ids: Iterable[int]) -> None:
        """Their rows stay, so that photos which come back, or were only moved, need no model."""
        for id in ids:
            self._execute("delete from photos where id = ?", (id,))

    # -- rows ---------------------------------------------------------------------------------------------------------

    def append(self, digest: bytes, vector: Float[np.ndarray, " e"], picture_hash: UInt64[np.ndarray, " 2"]) -> int:
        """A new row, written by the next commit."""
        if vector.shape != (self.width,):
            raise UserError(f"{self.folder}: an embedding of {len(vector)} numbers, the index has {self.width}")
        row = self.row_count
        self._execute("insert into rows values (?, ?)", (row, digest))
        self._vectors.append(vector.astype(np.float16))
        self._hashes.append(picture_hash)
        return row

    def commit(self) -> None:
        """All or nothing, and on the disk when it returns."""
        replaced = self._append_rows() if self._vectors else None
        if self._connection.in_transaction:
            self._connection.commit()
        self._vectors, self._hashes = [], []
        if replaced:
            (self.folder / replaced).unlink(missing_ok=True)  # a reader that has it open keeps it

    def _append_rows(self) -> str | None:
        """Returns the file of signs that another one replaces."""
        start, count = int(self.state.get("rows", 0)), self.row_count
        vectors = np.stack(self._vectors)
        state = {"vectors": "vectors-0.float16", "hashes": "hashes-0.uint64", **self.state, "rows": count}
        append_to_file(self.folder / state["vectors"], vectors, start)
        append_to_file(self.folder / state["hashes"], np.stack(self._hashes), start)
        replaced = None
        if start and count < 2 * state["mean_rows"]:
            mean = np.frombuffer(state["mean"], dtype=np.float32)
            append_to_file(self.folder / state["signs"], pack_signs(vectors, mean), start)
        else:  # the mean of so few photos says little of so many: all signs are made again
            replaced = state.get("signs")
            mean = mean_of_rows(self.folder / state["vectors"], count, self.width)
            state |= {"signs": f"signs-{count}.bits", "mean": mean.tobytes(), "mean_rows": count}
            write_signs(self.folder / state["signs"], self.folder / state["vectors"], mean, count)
        sync_folder(self.folder)
        for name, value in state.items():
            self._execute("insert or replace into state values (?, ?)", (name, value))
        self.state = state
        return replaced

    def close(self) -> None:
        """What is not committed is lost."""
        self._connection.close()


def append_to_file(file: Path, rows: np.ndarray, start: int) -> None:
    """Writes rows behind the first `start`, and waits until they are on the disk. What an interrupted write left there is
    overwritten."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            stream.seek(start * rows[0].nbytes)
            stream.write(np.ascontiguousarray(rows).data)
            stream.truncate()
            stream.flush()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mean_of_rows(vectors: Path, count: int, width: int) -> Float[np.ndarray, " e"]:
    rows = np.memmap(vectors, dtype=np.float16, mode="r", shape=(count, width))
    total = np.zeros(width)
    for start in range(0, count, CHUNK):
        total += rows[start : start + CHUNK].sum(0, dtype=np.float32)
    return (total / count).astype(np.float32)


def write_signs(file: Path, vectors: Path, mean: Float[np.ndarray, " e"], count: int) -> None:
    rows = np.memmap(vectors, dtype=np.float16, mode="r", shape=(count, len(mean)))
    with open(file, "wb") as stream:
        for start in range(0, count, CHUNK):
            stream.write(pack_signs(rows[start : start + CHUNK], mean).data)
        stream.flush()
        os.fsync(stream.fileno())
