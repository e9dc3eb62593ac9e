"""Embeddings of shards, one pair of files for each shard: what many machines write at once, and can be killed in.

    PARTS/manifest.json        the engine, as in an index
          00000.npy            float16 [n e]
          00000.parquet        path, taken, digest, hash of each row, and the files that are not readable with the reason;
                               without pyarrow 00000.jsonl

The second file appears last and complete. A shard that has it is passed over, so a job that was stopped is simply started again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from vlp.data.images import MAX_BYTES
from vlp.data.shards.manifest import expand_shard_patterns
from vlp.deploy.index.engine_surface import EmbeddingEngine
from vlp.deploy.index.near_copies import HASH_DIGITS, hash_from_text, hash_to_text, picture_hashes
from vlp.deploy.index.photo_files import PHOTO_NAMES
from vlp.deploy.index.photo_rows import BATCH, PhotoRows, id_of_path
from vlp.deploy.index.read_photo import ReadPicture, read_picture
from vlp.deploy.index.store import MANIFEST, StoreManifest, check_engine, read_manifest
from vlp.deploy.index.writer import StoreWriter
from vlp.system.atomic import atomic_write_json, sync_folder
from vlp.system.compat.stdlib import tar_members
from vlp.system.errors import UserError

_PART = re.compile(r"(\d+)/(\d+)")
COMMIT_ROWS = 100_000


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """photos: embedded.  failed: not readable."""

    photos: int
    failed: int


def choose_part(patterns: Sequence[str], part: str | None) -> list[str]:
    """The shards of the I-th of N parts, `I/N` with I from 1; every N-th shard, so that parts stay alike when shards are added.

    patterns: files, with {00000..00999} and, on this machine, * and ?.  Raises UserError, FileNotFoundError.
    """
    shards: list[str] = []
    for name in expand_shard_patterns(patterns):
        local = "://" not in name
        matches = sorted(map(str, Path().glob(name) if not Path(name).is_absolute() else _glob_absolute(name))) if (
            local and any(sign in name for sign in "*?[")
        ) else [name]  # fmt: skip
        if not matches or (local and not all(map(os.path.isfile, matches))):
            raise FileNotFoundError(f"{name}: there is no such shard")
        shards += [os.path.abspath(match) if local else match for match in matches]
    names: dict[str, str] = {}
    for shard in shards:
        other = names.setdefault(stem_of(shard), shard)
        if other != shard:
            raise UserError(f"{other} and {shard} would write the same files: give each --out of its own")
    shards = list(dict.fromkeys(shards))
    if part is None:
        return shards
    match = _PART.fullmatch(part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {part}: expected I/N with I from 1 to N, as 3/8")
    return shards[int(match[1]) - 1 :: int(match[2])]


def _glob_absolute(pattern: str) -> Iterator[Path]:
    root = Path(Path(pattern).anchor)
    return root.glob(str(Path(pattern).relative_to(root)))


def stem_of(shard: str) -> str:
    return PurePosixPath(shard).name.removesuffix(".tar")


def prepare_parts(folder: Path, engine: EmbeddingEngine, artifact: str | None = None) -> None:
    """Raises UserError where the folder has embeddings of another engine."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).is_file():
        assert engine.width is not None
        manifest = StoreManifest(fingerprint=engine.fingerprint, width=engine.width, artifact=artifact)
        atomic_write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    check_engine(read_manifest(folder), engine.fingerprint, folder)


def embed_shard(
    shard: str, engine: EmbeddingEngine, folder: Path, *, batch_size: int = 32, threads: int | None = None
) -> WrittenShard:
    """Embeds the photos of one tar, or does nothing if that was done.  shard: path or address that fsspec opens.

    Raises UserError where it is no tar or cut off; nothing is written then.
    """
    stem = stem_of(shard)
    for records in (folder / f"{stem}.parquet", folder / f"{stem}.jsonl"):
        if records.is_file():
            content = _read_records(records)
            failed = sum(record["error"] is not None for record in content)
            return WrittenShard(len(content) - failed, failed)
    vectors: list[np.ndarray] = []
    good: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    batch: list[tuple[str, ReadPicture]] = []

    def embed() -> None:
        pixels = np.stack([picture.pixels for _, picture in batch])  # type: ignore[misc]
        embeddings = engine.embed_pixels(pixels)
        if not np.isfinite(embeddings).all():
            raise UserError(f"{shard}: the model's embeddings have numbers that are not finite; export it again")
        vectors.append(embeddings.astype(np.float16))
        for (path, picture), picture_hash in zip(batch, picture_hashes(pixels), strict=True):
            good.append(_record(path, picture, hash_to_text(picture_hash)))
        batch.clear()

    for path, picture in _read_members(shard, engine, threads, batch_size):
        if picture.error is not None:
            failures.append(_record(path, picture, "0" * HASH_DIGITS))
            continue
        batch.append((path, picture))
        if len(batch) >= batch_size:
            embed()
    if batch:
        embed()
    width = engine.width
    assert width is not None
    _write_part(folder, stem, np.concatenate([*vectors, np.zeros((0, width), np.float16)]), [*good, *failures])
    return WrittenShard(len(good), len(failures))


def _record(path: str, picture: ReadPicture, picture_hash: str) -> dict[str, Any]:
    digest = picture.digest.hex() if picture.digest else None
    return {
        "path": path, "taken": picture.taken, "digest": digest, "hash": picture_hash, "error": picture.error,
    }  # fmt: skip


def _read_members(
    shard: str, engine: EmbeddingEngine, threads: int | None, batch_size: int
) -> Iterator[tuple[str, ReadPicture]]:
    """The photos of a tar in order; the tar is read once, from beginning to end, so it may be a stream of the network."""
    threads = threads or min(8, os.cpu_count() or 1)
    waiting: deque[tuple[str, Future[ReadPicture]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="photo") as pool, _open_shard(shard)() as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as archive:
                for member in tar_members(archive):
                    name = PurePosixPath(member.name)
                    if (
                        not member.isreg()
                        or name.suffix.lower().lstrip(".") not in PHOTO_NAMES
                        or name.name.startswith(".")
                    ):
                        continue
                    path = f"{shard}!{member.offset_data}+{member.size}/{member.name}"
                    data = b"" if member.size > MAX_BYTES else _content(archive, member)
                    waiting.append((path, pool.submit(read_picture, engine, path, data)))
                    if len(waiting) > 2 * batch_size + threads:
                        path, future = waiting.popleft()
                        yield path, future.result()
            while waiting:
                path, future = waiting.popleft()
                yield path, future.result()
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"{shard}: no tar, or cut off ({error}); download or pack it again") from error
        finally:
            for _, future in waiting:
                future.cancel()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    data = stream.read()
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _open_shard(shard: str) -> Callable[[], AbstractContextManager[IO[bytes]]]:
    if "://" not in shard:
        return lambda: open(shard, "rb")
    try:
        import fsspec

        return lambda: fsspec.open(shard, "rb")  # type: ignore[return-value]
    except (ImportError, ValueError) as error:
        raise UserError(f"{shard}: {error}; for s3:// and http:// run pip install 'vlp[stream]'") from error


def _write_part(folder: Path, stem: str, vectors: np.ndarray, records: list[dict[str, Any]]) -> None:
    mark = f"tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = folder / f".{stem}.{mark}.npy"
    _write_synced(temporary, lambda stream: np.save(stream, vectors))
    os.replace(temporary, folder / f"{stem}.npy")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = folder / f"{stem}.parquet"
        strings = pa.schema([(name, pa.string()) for name in ("path", "taken", "digest", "hash", "error")])
        table = pa.Table.from_pylist(records, schema=strings)
        temporary = folder / f".{stem}.{mark}.parquet"
        _write_synced(temporary, lambda stream: pq.write_table(table, stream))
    except ImportError:
        target, temporary = folder / f"{stem}.jsonl", folder / f".{stem}.{mark}.jsonl"
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        _write_synced(temporary, lambda stream: stream.write(text.encode()))
    os.replace(temporary, target)
    sync_folder(folder)


def _write_synced(file: Path, write: Callable[[Any], object]) -> None:
    with open(file, "xb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())


def check_parts(folder: Path) -> StoreManifest:
    """Raises FileNotFoundError, UserError where the folder was not written by `--shards`."""
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder}: holds no embeddings; `vlp index --shards TAR… --out {folder}` writes them")
    return read_manifest(folder)


def _record_files(folder: Path) -> list[Path]:
    return sorted(
        file for kind in ("parquet", "jsonl") for file in folder.glob(f"*.{kind}") if not file.name.startswith(".")
    )


def _read_records(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{file}: reading Parquet needs pyarrow; pip install 'vlp[arrow]'") from error
    return pq.read_table(file).to_pylist()  # type: ignore[no-any-return]


def read_parts(folder: Path) -> Iterator[PhotoRows]:
    """The photos of all parts, in order of their names.  Raises UserError where the two files of a part do not belong together."""
    check_parts(folder)
    for file in _record_files(folder):
        records = [record for record in _read_records(file) if record["error"] is None]
        vectors = np.load(file.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        if len(vectors) != len(records):
            raise UserError(
                f"{file}: {len(records)} photos and {len(vectors)} embeddings; delete both files and embed it again"
            )
        for start in range(0, len(records), BATCH):
            some = records[start : start + BATCH]
            yield PhotoRows(
                ids=[id_of_path(record["path"]) for record in some],
                paths=[record["path"] for record in some],
                taken=[record["taken"] for record in some],
                digests=[bytes.fromhex(record["digest"]) for record in some],
                vectors=np.array(vectors[start : start + BATCH]),
                hashes=np.stack([hash_from_text(record["hash"]) for record in some]),
            )


def take_parts(writer: StoreWriter, folder: Path) -> int:
    """Adds the photos of all parts to an index of the same engine; what it has already is not added again. Returns the number of
    photos."""
    count = since_commit = 0
    for batch in read_parts(folder):
        for number, (path, digest) in enumerate(zip(batch.paths, batch.digests, strict=True)):
            row = writer.row_of(digest)
            if row is None:
                row = writer.append(digest, batch.vectors[number], batch.hashes[number])
            writer.put(path, size=0, changed=0, checked=0, digest=digest, row=row, taken=batch.taken[number])
        count, since_commit = count + len(batch), since_commit + len(batch)
        if since_commit >= COMMIT_ROWS:
            writer.commit()
            since_commit = 0
    writer.commit()
    return count
