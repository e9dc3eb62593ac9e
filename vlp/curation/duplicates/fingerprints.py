"""Fingerprints of many photos: the checksum of each file and the perceptual hash of its picture.

Two files show the same picture if their bytes are equal, if their hashes are near and their thumbnails agree
(vlp/curation/duplicates/perceptual_hash.py), or, for pictures with too little structure for a hash, if their pixels are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Int, UInt8, UInt64

from vlp.curation.duplicates.near_pairs import near_pairs
from vlp.curation.duplicates.perceptual_hash import (
    DECODE_SIDE,
    MAX_DISTANCE,
    SIDE,
    are_same_picture,
    has_low_information,
    perceptual_hashes,
    thumbnail,
)
from vlp.data.images import ImageError, file_sha256, open_image, to_rgb
from vlp.system.parallel import parallel_map

Pair = tuple[int, int, int]  # two images, the smaller index first, and the distance of their hashes


@dataclass(frozen=True)
class Fingerprints:
    """Of n images, about 1.1 KB each."""

    file_hashes: list[bytes]  # sha256 of each file; empty where it cannot be read
    pixel_hashes: dict[int, bytes]  # sha256 of size and pixels, of the pictures with too little structure for a hash
    thumbnails: UInt8[np.ndarray, "n 32 32"]
    hashes: UInt64[np.ndarray, " n"]
    unreadable: dict[int, str]  # the reason, without the path

    @cached_property
    def first_copy(self) -> Int[np.ndarray, " n"]:
        """For each image the first one with the same file or, where it has a pixel hash, the same pixels: often itself."""
        seen: dict[bytes, int] = {}
        first = np.arange(len(self.file_hashes))
        for index, file_hash in enumerate(self.file_hashes):
            if index in self.unreadable:
                continue
            first[index] = seen.setdefault(file_hash, index)
            if index in self.pixel_hashes:
                first[index] = seen.setdefault(b"pixels" + self.pixel_hashes[index], int(first[index]))
        return first

    def distance_if_same(self, left: int, right: int) -> int | None:
        """The distance of the hashes of two images that show the same picture, else None."""
        if self.first_copy[left] == self.first_copy[right]:
            return 0
        if any(index in self.unreadable or index in self.pixel_hashes for index in (left, right)):
            return None
        if not are_same_picture(self.thumbnails[[left]], self.thumbnails[[right]])[0]:
            return None
        return int(np.bitwise_count(self.hashes[left] ^ self.hashes[right]))

    def near_duplicates(
        self, groups: Int[np.ndarray, " n"] | None = None, *, max_distance: int = MAX_DISTANCE
    ) -> list[Pair]:
        """The pairs of different files that show the same picture, each file by its `first_copy`.

        groups: only pairs of two different groups; a file that is in several groups is paired with all.
        """
        hashed = np.ones(len(self.file_hashes), dtype=bool)
        hashed[[*self.unreadable, *self.pixel_hashes]] = False
        hashed &= self.first_copy == np.arange(len(self.file_hashes))
        images = np.flatnonzero(hashed)
        if groups is not None:
            in_several = np.unique(self.first_copy[groups != groups[self.first_copy]])
            groups = groups.copy()
            groups[in_several] = -1 - in_several  # a group of its own
            groups = groups[images]
        pairs: list[Pair] = []
        for first, second, distances in near_pairs(self.hashes[images], max_distance, groups=groups):
            left, right = images[first], images[second]
            same = are_same_picture(self.thumbnails[left], self.thumbnails[right])
            pairs += zip(left[same].tolist(), right[same].tolist(), distances[same].tolist(), strict=True)
        return sorted(pairs)


def compute_fingerprints(images: Sequence[Any], *, workers: int | None = None) -> Fingerprints:
    """images: what `open_image` reads.  workers: processes (vlp/system/parallel.py)."""
    file_hashes: list[bytes] = []
    pixel_hashes: dict[int, bytes] = {}
    thumbnails = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8)
    unreadable: dict[int, str] = {}
    results = parallel_map(_fingerprint_image, images, workers=workers)
    for index, (file_hash, pixel_hash, grey, reason) in enumerate(results):
        file_hashes.append(file_hash)
        if reason:
            unreadable[index] = reason
            continue
        thumbnails[index] = np.frombuffer(grey, dtype=np.uint8).reshape(SIDE, SIDE)
        if pixel_hash:
            pixel_hashes[index] = pixel_hash
    return Fingerprints(file_hashes, pixel_hashes, thumbnails, perceptual_hashes(thumbnails), unreadable)


def _fingerprint_image(image: Any) -> tuple[bytes, bytes, bytes, str]:
    """sha256 of the file, sha256 of the pixels if the hash has low information, thumbnail, reason if it cannot be read."""
    try:
        grey = thumbnail(open_image(image, decode_side=DECODE_SIDE))
        low_information = has_low_information(grey[None])[0]
        pixel_hash = _pixels_sha256(to_rgb(open_image(image))) if low_information else b""
        return file_sha256(image), pixel_hash, grey.tobytes(), ""
    except ImageError as error:
        return b"", b"", b"", error.reason


def _pixels_sha256(image: PIL.Image.Image) -> bytes:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
