from __future__ import annotations

import numpy as np
import pytest

from vlp.deploy.index.nearest import candidate_count, nearest_rows, score_rows, to_float32
from vlp.deploy.index.signs import pack_signs
from vlp.deploy.index.store import Rows


def clustered_rows(count: int, width: int = 64, seed: int = 0) -> Rows:
    draws = np.random.default_rng(seed)
    centres = draws.standard_normal((count // 20, width))
    vectors = centres[draws.integers(0, len(centres), count)] + 0.5 * draws.standard_normal((count, width)) + 0.4
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    mean = vectors.mean(0, dtype=np.float32)
    return Rows(vectors=vectors, signs=pack_signs(vectors, mean), hashes=np.zeros((count, 2), np.uint64), mean=mean)


def queries_of(rows: Rows, count: int) -> np.ndarray:
    draws = np.random.default_rng(5)
    near = rows.vectors[draws.integers(0, len(rows), count)] + 0.1 * draws.standard_normal(
        (count, rows.vectors.shape[1])
    )
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_exact_search_is_the_order_of_dot_products() -> None:
    rows = clustered_rows(500)
    query = queries_of(rows, 1)[0]
    found, scores = nearest_rows(rows, query, 30)
    expected = rows.vectors.astype(np.float64) @ query
    assert found.tolist() == np.argsort(-expected)[:30].tolist()
    np.testing.assert_allclose(scores, expected[found], atol=1e-6)


@pytest.mark.parametrize("faiss", [False, None])
def test_signs_and_rescoring_find_what_an_exact_search_finds(faiss: bool | None) -> None:
    rows = clustered_rows(30_000)
    shared = total = 0
    for query in queries_of(rows, 20):
        exact, _ = nearest_rows(rows, query, 10, exact=True)
        proposed, scores = nearest_rows(rows, query, 10, faiss=faiss)
        shared, total = shared + len({*exact.tolist()} & {*proposed.tolist()}), total + 10
        np.testing.assert_array_equal(scores, score_rows(rows, query, proposed))
    assert shared / total >= 0.995


def test_a_score_does_not_depend_on_the_rows_beside_it() -> None:
    rows = clustered_rows(9_000, width=100)
    query = queries_of(rows, 1)[0]
    every = score_rows(rows, query, np.arange(9_000))
    for some in (np.arange(1), np.arange(5_000, 5_003), np.array([3, 17, 8_000])):
        np.testing.assert_array_equal(every[some], score_rows(rows, query, some))


def test_equal_scores_are_in_order_of_row() -> None:
    rows = clustered_rows(200)
    rows.vectors[100:] = rows.vectors[:100]
    found, _ = nearest_rows(rows, queries_of(rows, 1)[0], 20)
    pairs = found.reshape(-1, 2)
    assert (pairs[:, 0] + 100 == pairs[:, 1]).all()


@pytest.mark.parametrize("exact", [True, False])
def test_only_allowed_rows(exact: bool) -> None:
    rows = clustered_rows(4_000)
    allowed = np.arange(1, 4_000, 3)
    query = queries_of(rows, 1)[0]
    found, _ = nearest_rows(rows, query, 10, allowed=allowed, exact=exact)
    expected = allowed[np.argsort(-(rows.vectors[allowed].astype(np.float64) @ query))[:10]]
    assert found.tolist() == expected.tolist()
    nothing, _ = nearest_rows(rows, query, 10, allowed=np.zeros(0, np.int64))
    assert len(nothing) == 0


def test_every_finite_float16_is_converted_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(1, -1)
    assert finite.size == 65_536 - 2 * 1_024
    np.testing.assert_array_equal(to_float32(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_more_rows_and_fewer_dimensions_need_more_candidates() -> None:
    assert candidate_count(30_000, width=512) == candidate_count(30_000, width=768) == 2_000
    assert candidate_count(1_000_000, width=512) == 8_000
    assert candidate_count(30_000, width=128) == 8_000
