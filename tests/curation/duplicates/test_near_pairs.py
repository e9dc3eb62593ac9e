from __future__ import annotations

import numpy as np
import pytest

from vlp.curation.duplicates import near_pairs as module
from vlp.curation.duplicates.near_pairs import near_pairs


def brute_force(hashes: np.ndarray, distance: int, groups: np.ndarray | None) -> set[tuple[int, int, int]]:
    pairs = set()
    for first in range(len(hashes)):
        distances = np.bitwise_count(hashes[first] ^ hashes[first + 1 :])
        for offset in np.flatnonzero(distances <= distance):
            second = first + 1 + int(offset)
            if groups is None or groups[first] != groups[second]:
                pairs.add((first, second, int(distances[offset])))
    return pairs


def search_pairs(hashes: np.ndarray, distance: int, groups: np.ndarray | None = None) -> list[tuple[int, int, int]]:
    return [
        pair
        for block in near_pairs(hashes, distance, groups=groups)
        for pair in zip(*(column.tolist() for column in block), strict=True)
    ]


def clustered_hashes(count: int) -> np.ndarray:
    """Random hashes, half of them copies of others with up to 16 bits flipped."""
    generator = np.random.default_rng(3)
    hashes = generator.integers(0, 1 << 64, count, dtype=np.uint64)
    for index in range(count // 2, count):
        bits = generator.choice(64, generator.integers(0, 17), replace=False)
        hashes[index] = hashes[index - count // 2] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 7, 8, 10, 12])
def test_each_pair_within_the_distance_is_yielded_once(distance: int) -> None:
    hashes = clustered_hashes(1200)
    pairs = search_pairs(hashes, distance)
    expected = brute_force(hashes, distance, None)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    assert len(expected) > 30


def test_pairs_of_the_same_group_are_left_out() -> None:
    hashes, groups = clustered_hashes(600), np.arange(600) % 3
    expected = brute_force(hashes, 9, groups)
    assert set(search_pairs(hashes, 9, groups)) == expected
    assert expected < brute_force(hashes, 9, None)


def test_blocks_are_bounded_when_all_hashes_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 1000)
    sizes = [len(first) for first, _, _ in near_pairs(np.zeros(300, dtype=np.uint64), 5)]
    assert sum(sizes) == 300 * 299 // 2
    assert max(sizes) <= 1000


@pytest.mark.parametrize("count", [0, 1])
def test_few_hashes_have_no_pairs(count: int) -> None:
    assert search_pairs(np.zeros(count, dtype=np.uint64), 8) == []


def test_a_distance_above_63_is_refused() -> None:
    with pytest.raises(ValueError, match="distance=64"):
        search_pairs(np.zeros(3, dtype=np.uint64), 64)


def test_pairs_among_a_hundred_thousand_hashes() -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 100_000, dtype=np.uint64)
    hashes[-7:] = hashes[:7] ^ np.uint64(0b1011)
    assert {(n, 99_993 + n, 3) for n in range(7)} <= set(search_pairs(hashes, 8))
