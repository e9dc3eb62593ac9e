"""Photos in a Qdrant collection: a server, or a folder of this machine (for up to some 20,000 photos).

On a server the vectors are float16 on its disk, their signs are in its memory and choose the candidates, as in vlp's own index.
A server's key is read from $QDRANT_API_KEY.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
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

OVERSAMPLING = 5.0  # candidates by signs, for each result
PAYLOAD = 256  # photos in one request


class QdrantPhotos:
    def __init__(self, address: str, manifest: StoreManifest, *, create: bool, replace: bool) -> None:
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise UserError(f"qdrant:{address}: its client is not installed; pip install qdrant-client") from error
        self.manifest, self._models, self._name = manifest, models, collection_name(manifest)
        self._is_server = "://" in address
        if self._is_server:
            self._client = QdrantClient(url=address, api_key=os.environ.get("QDRANT_API_KEY"))
        else:
            self._client = _open_folder(QdrantClient, address)
        names = [collection.name for collection in self._client.get_collections().collections]
        if self._name not in names and not create:
            self._client.close()
            raise missing_collection(f"qdrant:{address}", self._name, names)
        if self._name in names and replace:
            self._client.delete_collection(self._name)
        if self._name not in names or replace:
            self._create()

    def _create(self) -> None:
        models = self._models
        self._client.create_collection(
            self._name,
            vectors_config=models.VectorParams(
                size=self.manifest.width, distance=models.Distance.DOT, on_disk=True, datatype=models.Datatype.FLOAT16
            ),
            quantization_config=models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
        )
        if self._is_server:
            self._client.create_payload_index(self._name, "folders", models.PayloadSchemaType.KEYWORD)
            self._client.create_payload_index(self._name, "taken", models.PayloadSchemaType.DATETIME)

    def count_photos(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def write(self, rows: PhotoRows) -> None:
        points = [
            self._models.PointStruct(
                id=rows.ids[i],
                vector=rows.vectors[i].astype(np.float32).tolist(),
                payload={
                    "path": rows.paths[i], "taken": rows.taken[i], "digest": rows.digests[i].hex(),
                    "hash": hash_to_text(rows.hashes[i]), "folders": [str(p) for p in PurePosixPath(rows.paths[i]).parents],
                },
            )
            for i in range(len(rows))
        ]  # fmt: skip
        for start in range(0, len(points), PAYLOAD):
            self._client.upsert(self._name, points[start : start + PAYLOAD], wait=True)

    def finish(self) -> None:
        pass  # Qdrant builds its index by itself

    def nearest(
        self, query: Float32[np.ndarray, " e"], count: int, among: Filter, *, exact: bool | None = None
    ) -> tuple[list[Candidate], bool]:
        models = self._models
        found = self._client.query_points(
            self._name,
            query=query.tolist(),
            query_filter=self._filter(among),
            limit=count,
            with_payload=True,
            with_vectors=True,
            search_params=models.SearchParams(
                exact=bool(exact),
                quantization=models.QuantizationSearchParams(
                    ignore=bool(exact), rescore=True, oversampling=OVERSAMPLING
                ),
            ),
        ).points
        candidates = [_candidate(point, query) for point in found]
        return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.path)), len(found) < count

    def _filter(self, among: Filter) -> Any:
        models, conditions = self._models, list[Any]()
        if among.folder:
            folder = os.path.abspath(among.folder)
            conditions.append(models.FieldCondition(key="folders", match=models.MatchValue(value=folder)))
        first, end = among.period()
        if first or end:
            conditions.append(models.FieldCondition(key="taken", range=models.DatetimeRange(gte=first, lt=end)))
        return models.Filter(must=conditions) if conditions else None

    def photo(self, id: int) -> Candidate | None:
        found = self._client.retrieve(self._name, [int(id)], with_payload=True, with_vectors=True)
        return _candidate(found[0], None) if found else None

    def close(self) -> None:
        self._client.close()


def _open_folder(client: Any, folder: str) -> Any:
    try:
        return client(path=folder)
    except RuntimeError as error:  # its lock: only one process at a time may have the folder open, also to read
        raise UserError(f"qdrant:{folder}: another process has it open; for several, run a Qdrant server") from error


def _candidate(point: Any, query: Float32[np.ndarray, " e"] | None) -> Candidate:
    vector, payload = np.asarray(point.vector, dtype=np.float32), point.payload
    return Candidate(
        id=int(point.id), path=payload["path"], taken=payload["taken"], content=payload["digest"],
        hash=hash_from_text(payload["hash"]), vector=vector,
        score=1.0 if query is None else float(np.einsum("e,e->", vector, query)),
    )  # fmt: skip
