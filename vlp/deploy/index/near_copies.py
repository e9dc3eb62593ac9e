"""Photos that are the same picture but for size, compression or a small crop.

The perceptual hash of vlp/curation/duplicates/perceptual_hash.py proposes; the colours of the four quarters and the embeddings
confirm. That hash is of gray pixels, and embeddings of a model that saw few drawings are all alike: without colours a red and a
blue circle would be one picture. Both are of the pixels that the model sees, so they cost no second decoding. Pictures with too
little structure for a hash (a white page) have none here, and are copies only of equal files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Float32, UInt8, UInt64

from vlp.curation.duplicates.near_pairs import near_pairs
from vlp.curation.duplicates.perceptual_hash import MAX_DISTANCE, SIDE, has_low_information, perceptual_hashes
from vlp.deploy.index.store import Rows, Store

MIN_COSINE = 0.9  # of the embeddings of copies
# Levels of 255, of either chroma of any quarter. In 500 photos of Flickr8k JPEG at quality 30 changes 2 at most, a crop of 2.5 % on
# each side 4, and one of 5 % more than 8 in one photo.
MAX_CHROMA = 8
HASH_DIGITS = 32


def picture_hashes(pixels: UInt8[np.ndarray, "b 3 h w"]) -> UInt64[np.ndarray, "b 2"]:
    """Of each picture the perceptual hash of its gray pixels, 0 = too little structure; and eight bytes: Cb and Cr (ITU-R BT.601)
    of its quarters."""
    resampling = PIL.Image.Resampling.BILINEAR
    pictures = [PIL.Image.fromarray(picture) for picture in np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))]
    grey = np.stack([np.asarray(picture.convert("L").resize((SIDE, SIDE), resampling)) for picture in pictures])
    hashes = np.where(has_low_information(grey), np.uint64(0), perceptual_hashes(grey))
    return np.stack([hashes, _quarter_chroma(pictures)], axis=1)


def _quarter_chroma(pictures: Sequence[PIL.Image.Image]) -> UInt64[np.ndarray, " b"]:
    resampling = PIL.Image.Resampling.BOX
    quarters = np.stack([np.asarray(picture.convert("YCbCr").resize((2, 2), resampling)) for picture in pictures])
    return np.ascontiguousarray(quarters[..., 1:]).reshape(len(pictures), 8).view(np.uint64)[:, 0]


def have_equal_colours(one: UInt64[np.ndarray, "*#m"], other: UInt64[np.ndarray, "*#m"]) -> Bool[np.ndarray, "*m"]:
    """Whether no chroma of any quarter differs by more than MAX_CHROMA."""
    levels = (np.ascontiguousarray(colours)[..., None].view(np.uint8).astype(np.int16) for colours in (one, other))
    return np.asarray((np.abs(np.subtract(*levels)) <= MAX_CHROMA).all(-1))


def hash_to_text(picture_hash: UInt64[np.ndarray, " 2"]) -> str:
    """HASH_DIGITS hexadecimal digits, for engines and files without whole numbers of 64 bits."""
    return "".join(f"{value:016x}" for value in picture_hash.tolist())


def hash_from_text(text: str) -> UInt64[np.ndarray, " 2"]:
    half = HASH_DIGITS // 2
    return np.array([int(text[:half], 16), int(text[half:], 16)], dtype=np.uint64)


def fold_near_copies(hashes: UInt64[np.ndarray, "m 2"], vectors: Float[np.ndarray, "m e"]) -> list[list[int]]:
    """Groups of positions, in order; each position belongs to the first group whose first one it is a copy of."""
    groups: list[list[int]] = []
    vectors = _unit_rows(vectors)
    first: list[int] = []
    for index, (gray, colours) in enumerate(hashes):
        group = None
        if gray:
            others = hashes[first]
            distances = np.bitwise_count(others[:, 0] ^ gray)
            near = np.flatnonzero(
                (distances <= MAX_DISTANCE) & have_equal_colours(others[:, 1], colours[None])
            ).tolist()
            near = [other for other in near if hashes[first[other], 0]]
            group = next((other for other in near if vectors[first[other]] @ vectors[index] >= MIN_COSINE), None)
        if group is None:
            first.append(index)
            groups.append([index])
        else:
            groups[group].append(index)
    return groups


def near_copy_groups(rows: Rows, used: Sequence[int]) -> list[list[int]]:
    """Rows that are copies of each other, over `used` rows; each row is in one group at most, and groups have at least two."""
    numbers = np.array([row for row in used if rows.hashes[row, 0]], dtype=np.int64)
    leader: dict[int, int] = {}

    def find(row: int) -> int:
        while leader.get(row, row) != row:
            row = leader[row]
        return row

    for left, right, _ in near_pairs(np.ascontiguousarray(rows.hashes[numbers, 0]), MAX_DISTANCE):
        one, other = numbers[left], numbers[right]
        alike = have_equal_colours(rows.hashes[one, 1], rows.hashes[other, 1])
        one, other = one[alike], other[alike]
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
