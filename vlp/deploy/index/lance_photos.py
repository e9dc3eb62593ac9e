"""Photos in a LanceDB table: a folder of this machine, or object storage such as s3://bucket/photos."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32

from vlp.deploy.index.candidates import Candidate
from vlp.deploy.index.near_copies import hash_from_text, hash_to_text
from vlp.deploy.index.photo_rows import PhotoRows
from vlp.deploy.index.query import Filter
from vlp.deploy.index.remote import collection_name, missing_collection
from vlp.deploy.index.store import StoreManifest
from vlp.system.errors import UserError

INDEX_FROM = 100_000  # photos from which an index is built; fewer are compared one by one


class LancePhotos:
    def __init__(self, address: str, manifest: StoreManifest, *, create: bool, replace: bool) -> None:
        try:
            import lancedb
            import pyarrow as pa
        except ImportError as error:
            raise UserError(f"lancedb:{address}: LanceDB is not installed; pip install lancedb") from error
        self.manifest, self._pa = manifest, pa
        database, name = lancedb.connect(address), collection_name(manifest)
        names = list(database.table_names(limit=1000))
        if name not in names and not create:
            raise missing_collection(f"lancedb:{address}", name, names)
        vector = pa.list_(pa.float16(), manifest.width)
        columns = {
            "id": pa.int64(),
            "path": pa.string(),
            "taken": pa.string(),
            "digest": pa.string(),
            "hash": pa.string(),
        }
        self._schema = pa.schema([*columns.items(), ("vector", vector)])
        if name not in names or replace:
            self._table: Any = database.create_table(name, schema=self._schema, mode="overwrite")
        else:
            self._table = database.open_table(name)

    def count_photos(self) -> int:
        return int(self._table.count_rows())

    def write(self, rows: PhotoRows) -> None:
        pa = self._pa
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.reshape(-1)), self.manifest.width)
        digests, hashes = [digest.hex() for digest in rows.digests], [hash_to_text(value) for value in rows.hashes]
        table = pa.table([rows.ids, rows.paths, rows.taken, digests, hashes, vectors], schema=self._schema)
        self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def finish(self) -> None:
        if self.count_photos() >= INDEX_FROM:
            self._table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ")
            self._table.create_scalar_index("id")
        self._table.optimize()  # rows that were added after an index was built are scanned until then

    def nearest(
        self, query: Float32[np.ndarray, " e"], count: int, among: Filter, *, exact: bool | None = None
    ) -> tuple[list[Candidate], bool]:
        request = (
            self._table.search(query.astype(np.float32), vector_column_name="vector").distance_type("dot").limit(count)
        )
        if not among.is_empty:
            request = request.where(_condition(among), prefilter=True)
        request = request.bypass_vector_index() if exact else request.refine_factor(10)
        found = [_candidate(record, query) for record in request.to_list()]
        return sorted(found, key=lambda candidate: (-candidate.score, candidate.path)), len(found) < count

    def photo(self, id: int) -> Candidate | None:
        found = self._table.search().where(f"id = {int(id)}").limit(1).to_list()
        return _candidate(found[0], None) if found else None

    def close(self) -> None:
        pass  # LanceDB has no connection to end


def _condition(among: Filter) -> str:
    """`Filter.condition` as text, since LanceDB takes no values beside it."""
    text, values = among.condition()
    pieces = text.removeprefix("row is not null and ").split("?")
    quoted = ["'" + value.replace("'", "''") + "'" for value in values]
    return "".join(piece + value for piece, value in zip(pieces, [*quoted, ""], strict=True))


def _candidate(record: dict[str, Any], query: Float32[np.ndarray, " e"] | None) -> Candidate:
    vector = np.asarray(record["vector"], dtype=np.float32)
    return Candidate(
        id=record["id"], path=record["path"], taken=record["taken"], content=record["digest"], hash=hash_from_text(record["hash"]),
        vector=vector, score=1.0 if query is None else float(np.einsum("e,e->", vector, query)),
    )  # fmt: skip
