from __future__ import annotations

import numpy as np
import pytest

from vlp.deploy.index.signs import (
    bit_distances,
    first_of_nearest,
    has_faiss,
    nearest_signs,
    pack_signs,
    sign_bytes,
    sign_scores,
    without_mean,
)


def random_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("width", [27, 64, 100, 512])
def test_distance_counts_the_dimensions_whose_signs_differ(width: int) -> None:
    rows, query = random_vectors(50, width) + 0.3, random_vectors(1, width, seed=1)
    mean = rows.mean(0)
    signs = pack_signs(rows, mean)
    assert signs.shape == (50, sign_bytes(width))
    expected = ((rows > mean) != (query > 0)).sum(1)
    assert bit_distances(pack_signs(query)[0], signs).tolist() == expected.tolist()


def test_of_equally_near_rows_the_first_are_taken() -> None:
    distances = np.array([5, 2, 5, 9, 5, 2], dtype=np.uint16)
    assert first_of_nearest(distances, 4).tolist() == [0, 1, 2, 5]
    assert first_of_nearest(distances, 1).tolist() == [1]
    assert first_of_nearest(distances, 6).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.skipif(not has_faiss(), reason="faiss is not installed")
@pytest.mark.parametrize("width", [27, 64, 512])
@pytest.mark.parametrize("count", [1, 40, 999, 3000])
def test_faiss_and_numpy_choose_the_same_rows(width: int, count: int) -> None:
    signs = pack_signs(random_vectors(3000, width))
    signs[1000:2000] = signs[:1000]  # ties
    query = pack_signs(random_vectors(1, width, seed=2))[0]
    by_numpy = nearest_signs(query, signs, count, faiss=False)
    assert by_numpy.tolist() == nearest_signs(query, signs, count, faiss=True).tolist()
    assert len(by_numpy) == count


def test_no_rows_have_no_nearest_one() -> None:
    assert len(nearest_signs(pack_signs(random_vectors(1, 64))[0], np.zeros((0, 8), np.uint8), 5)) == 0


def test_the_direction_of_the_mean_is_removed_from_queries() -> None:
    queries, mean = random_vectors(4, 10), random_vectors(1, 10, seed=4)[0]
    left = without_mean(queries, mean)
    np.testing.assert_allclose(left @ mean, 0, atol=1e-5)
    np.testing.assert_allclose(without_mean(queries + 7 * mean, mean), left, atol=1e-4)
    assert without_mean(queries, np.zeros(10, np.float32)) is queries


def test_scores_of_float_queries_against_signs() -> None:
    rows, queries = random_vectors(20_000, 100), random_vectors(3, 100, seed=3)
    expected = queries @ np.where(rows > 0, 1.0, -1.0).T / 10
    np.testing.assert_allclose(sign_scores(queries, pack_signs(rows)), expected, atol=1e-5)
    mean = random_vectors(1, 100, seed=6)[0]
    centred = without_mean(queries, mean) @ np.where(rows > mean, 1.0, -1.0).T / 10
    np.testing.assert_allclose(sign_scores(queries, pack_signs(rows, mean), mean), centred, atol=1e-5)
