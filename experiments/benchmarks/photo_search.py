"""A million photos: the CPU time of a search, and how many of the ten nearest it finds.

    python experiments/benchmarks/photo_search.py [--rows 1000000] [--width 512] [--queries 100] [--rounds 3]

The embeddings are drawn: each is a mixture of three of 8,000 directions with noise and an offset that all share, as embeddings of
photos have; the variance of the k-th principal direction falls as 1/k. Half of the queries are drawn as the photos are; the other
half has another offset, as embeddings of texts have. They are written into an index by its own writer, which takes a gigabyte and
a half below --folder (a temporary folder), and compared with an exact search of the same float16 rows. CPU time is that of the
process; the ways alternate.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vlp.deploy.index.local_photos import LocalPhotos
from vlp.deploy.index.nearest import nearest_rows
from vlp.deploy.index.photo_index import Index
from vlp.deploy.index.signs import has_faiss
from vlp.deploy.index.store import Rows, Store, StoreManifest
from vlp.deploy.index.writer import open_writer
from vlp.system.units import readable_bytes

DIRECTIONS, PARTS, CHUNK = 8_000, 3, 10_000
NOISE, OFFSET = 0.5, 1.0  # lengths, of which a mixture's own is 1


class Mixture:
    """Draws unit vectors."""

    def __init__(self, width: int) -> None:
        self.draws = np.random.default_rng(0)
        spectrum = 1 / np.sqrt(np.arange(1, width + 1))
        rotation = np.linalg.qr(self.draws.standard_normal((width, width)))[0]
        self.axes = (spectrum[:, None] * rotation).astype(np.float32)
        self.directions = self._units(DIRECTIONS)
        self.photo_offset, self.text_offset = OFFSET * self._units(2)

    def _units(self, count: int) -> np.ndarray:
        vectors = self.draws.standard_normal((count, len(self.axes)), dtype=np.float32) @ self.axes
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def sample(self, count: int, *, texts: bool = False) -> np.ndarray:
        weights = self.draws.dirichlet(np.ones(PARTS), count).astype(np.float32)
        chosen = self.draws.integers(0, DIRECTIONS, (count, PARTS))
        mixed = np.einsum("np,npe->ne", weights, self.directions[chosen])
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        vectors = mixed + NOISE * self._units(count) + (self.text_offset if texts else self.photo_offset)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(folder: Path, mixture: Mixture, rows: int) -> float:
    """Seconds of CPU that the writer needs, without drawing the embeddings."""
    seconds = 0.0
    with open_writer(folder, StoreManifest(fingerprint="0" * 64, width=len(mixture.axes))) as writer:
        for start in range(0, rows, CHUNK):
            vectors = mixture.sample(min(CHUNK, rows - start))
            begin = time.process_time()
            for number, vector in enumerate(vectors, start):
                digest = hashlib.blake2b(str(number).encode(), digest_size=20).digest()
                row = writer.append(digest, vector, picture_hash=np.zeros(2, np.uint64))
                writer.put(f"/photos/{number:09d}.jpg", size=1, changed=1, checked=2, digest=digest, row=row)
            writer.commit()
            seconds += time.process_time() - begin
    return seconds


def nearest_ten(rows: Rows, queries: np.ndarray) -> np.ndarray:
    """Of each query, by comparing all rows."""
    best_scores = np.full((len(queries), 10), -np.inf, dtype=np.float32)
    best = np.zeros((len(queries), 10), dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        scores = queries @ rows.vectors[start : start + CHUNK].astype(np.float32).T
        scores = np.concatenate([best_scores, scores], axis=1)
        numbers = np.concatenate(
            [best, np.tile(np.arange(start, start + scores.shape[1] - 10), (len(queries), 1))], axis=1
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        best_scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)
    return best


def measure(
    ways: dict[str, Callable[[np.ndarray], object]], queries: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds of a query, of each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, search in ways.items():
            begin = time.process_time()
            for query in queries:
                search(query)
            times[name].append((time.process_time() - begin) / len(queries) * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the index is written (a temporary folder)")
    options = parser.parse_args()
    mixture = Mixture(options.width)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary) / "index"
        seconds = write_index(folder, mixture, options.rows)
        sizes = ", ".join(
            f"{file.name} {readable_bytes(file.stat().st_size)}" for file in sorted(folder.glob("*[a-z0-9]"))
        )
        print(f"{options.rows:,} rows written in {seconds:.0f} CPU-s: {sizes}", flush=True)
        store = Store(folder)
        rows, index = store.rows, Index(LocalPhotos(store), None)  # type: ignore[arg-type]
        half = options.queries // 2
        queries = {"photos": mixture.sample(half), "texts": mixture.sample(options.queries - half, texts=True)}
        faiss = {"signs by faiss": True} if has_faiss() else {}
        for kind, drawn in queries.items():
            truth = nearest_ten(rows, drawn)
            for name, use_faiss in {**faiss, "signs by numpy": False}.items():
                found = [nearest_rows(rows, query, 10, exact=False, faiss=use_faiss)[0] for query in drawn]
                shared = [len({*ten.tolist()} & {*exact.tolist()}) for ten, exact in zip(found, truth, strict=True)]
                print(f"{kind}, {name}: recall@10 {sum(shared) / len(shared) / 10:.4f}", flush=True)
        ways: dict[str, Callable[[np.ndarray], object]] = {
            f"{name}, ten best rows": partial(nearest_rows, rows, count=10, exact=False, faiss=use_faiss)
            for name, use_faiss in {**faiss, "signs by numpy": False}.items()
        }
        ways["vlp search: 20 hits with paths, copies folded"] = partial(index.search_vector, k=20, exact=False)
        times = measure(ways, np.concatenate([*queries.values()]), options.rounds)
        for name, values in times.items():
            print(f"{name}: {min(values):.2f} CPU-ms ({min(values):.2f} to {max(values):.2f})")
        store.close()


if __name__ == "__main__":
    main()
