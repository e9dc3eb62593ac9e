"""Photos that are the same picture but for size, compression or a small crop.

The perceptual hash of vlp/curation/duplicates/perceptual_hash.py proposes, and the embeddings confirm. The hash is of the pixels
that the model sees, so it costs no second decoding. Pictures with too little structure for a hash (a white page) have none here,
and are copies only of equal files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from jaxtyping import Float, Float32, UInt8, UInt64

from vlp.curation.duplicates.near_pairs import near_pairs
from vlp.curation.duplicates.perceptual_hash import MAX_DISTANCE, SIDE, has_low_information, perceptual_hashes
from vlp.deploy.index.store import Rows, Store

MIN_COSINE = 0.9  # of the embeddings of copies


def picture_hashes(pixels: UInt8[np.ndarray, "b 3 h w"]) -> UInt64[np.ndarray, " b"]:
    """0 = too little structure."""
    resampling = PIL.Image.Resampling.BILINEAR
    pictures = (
        PIL.Image.fromarray(picture).convert("L") for picture in np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    )
    grey = np.stack([np.asarray(picture.resize((SIDE, SIDE), resampling)) for picture in pictures])
    return np.where(has_low_information(grey), np.uint64(0), perceptual_hashes(grey))


def fold_near_copies(hashes: UInt64[np.ndarray, " m"], vectors: Float[np.ndarray, "m e"]) -> list[list[int]]:
    """Groups of positions, in order; each position belongs to the first group whose first one it is a copy of."""
    groups: list[list[int]] = []
    vectors = _unit_rows(vectors)
    first: list[int] = []
    for index, picture_hash in enumerate(hashes):
        group = None
        if picture_hash:
            near = np.flatnonzero(np.bitwise_count(hashes[first] ^ picture_hash) <= MAX_DISTANCE).tolist()
            near = [other for other in near if hashes[first[other]]]
            group = next((other for other in near if vectors[first[other]] @ vectors[index] >= MIN_COSINE), None)
        if group is None:
            first.append(index)
            groups.append([index])
        else:
            groups[group].append(index)
    return groups


def near_copy_groups(rows: Rows, used: Sequence[int]) -> list[list[int]]:
    """Rows that are copies of each other, over `used` rows; each row is in one group at most, and groups have at least two."""
    numbers = np.array([row for row in used if rows.hashes[row]], dtype=np.int64)
    leader: dict[int, int] = {}

    def find(row: int) -> int:
        while leader.get(row, row) != row:
            row = leader[row]
        return row

    for left, right, _ in near_pairs(np.asarray(rows.hashes[numbers]), MAX_DISTANCE):
        one, other = numbers[left], numbers[right]
        cosines = (_unit_rows(rows.vectors[one]) * _unit_rows(rows.vectors[other])).sum(1)
        for a, b in zip(one[cosines >= MIN_COSINE].tolist(), other[cosines >= MIN_COSINE].tolist(), strict=True):
            a, b = sorted((find(a), find(b)))
            leader[b] = a
    groups: dict[int, list[int]] = {}
    for row in numbers.tolist():
        groups.setdefault(find(row), []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def list_copy_groups(store: Store) -> list[list[str]]:
    """Paths of photos that are equal or near copies, in order of path."""
    rows = store.rows
    paths: dict[int, list[str]] = {}
    for row, path in store.query("select row, path from photos where row < ? order by path", (len(rows),)):
        paths.setdefault(row, []).append(path)
    groups = near_copy_groups(rows, list(paths))
    near = {row for group in groups for row in group}
    groups += [[row] for row, files in paths.items() if len(files) > 1 and row not in near]
    return sorted(sorted(path for row in group for path in paths[row]) for group in groups)


def _unit_rows(vectors: Float[np.ndarray, "m e"]) -> Float32[np.ndarray, "m e"]:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
