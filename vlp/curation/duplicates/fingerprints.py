"""What tells photos apart, of many at once: the bytes of the file, and what the picture looks like.

Two files show the same picture if their bytes are equal, if their hashes are near and their thumbnails agree
(vlp/curation/duplicates/perceptual_hash.py), or, for pictures too plain to have a hash, if their pixels are equal.
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
    DISTANCE,
    SIDE,
    low_information,
    perceptual_hashes,
    same_picture,
    thumbnail,
)
from vlp.data.images import ImageError, file_sha256, open_image, to_rgb
from vlp.system.parallel import parallel_map

Pair = tuple[int, int, int]  # two images, the smaller index first, and the distance of their hashes


@dataclass(frozen=True)
class Fingerprints:
    """Of n images, about 1.1 KB each."""

    files: list[bytes]  # sha256 of each file; empty where it cannot be read
    pixels: dict[int, bytes]  # sha256 of size and pixels, of the pictures that are too plain for a hash
    thumbnails: UInt8[np.ndarray, "n 32 32"]
    hashes: UInt64[np.ndarray, " n"]
    unreadable: dict[int, str]  # why, without the path

    @cached_property
    def first(self) -> Int[np.ndarray, " n"]:
        """For each image the first one that has the same file or, where it is plain, the same pixels: often itself."""
        seen: dict[bytes, int] = {}
        found = np.arange(len(self.files))
        for index, file in enumerate(self.files):
            if index not in self.unreadable:
                same = seen.setdefault(file, index)
                found[index] = seen.setdefault(b"pixels" + self.pixels[index], same) if index in self.pixels else same
        return found

    def alike(self, left: int, right: int) -> int | None:
        """The distance of two images that show the same picture, else None."""
        if self.first[left] == self.first[right]:
            return 0
        if any(index in self.unreadable or index in self.pixels for index in (left, right)):
            return None
        if not same_picture(self.thumbnails[[left]], self.thumbnails[[right]])[0]:
            return None
        return int(np.bitwise_count(self.hashes[left] ^ self.hashes[right]))

    def pairs_alike(
        self, groups: Int[np.ndarray, " n"] | None = None, *, distance: int = DISTANCE, confirm: bool = True
    ) -> list[Pair]:
        """The pairs of different files that show the same picture, each file by its `first` image.

        groups: only pairs between two groups; a file that is in several is paired with all.
        confirm: compare the thumbnails of the pairs that the hashes propose.
        """
        used = np.ones(len(self.files), dtype=bool)
        used[[*self.unreadable, *self.pixels]] = False
        used &= self.first == np.arange(len(self.files))
        images = np.flatnonzero(used)
        if groups is not None:
            mixed = np.unique(self.first[groups != groups[self.first]])
            groups = groups.copy()
            groups[mixed] = -1 - mixed  # a group of its own
            groups = groups[images]
        pairs: list[Pair] = []
        for one, other, apart in near_pairs(self.hashes[images], distance, groups=groups):
            left, right = images[one], images[other]
            if confirm:
                same = same_picture(self.thumbnails[left], self.thumbnails[right])
                left, right, apart = left[same], right[same], apart[same]
            pairs += zip(left.tolist(), right.tolist(), apart.tolist(), strict=True)
        return sorted(pairs)


def fingerprints(images: Sequence[Any], *, workers: int | None = None) -> Fingerprints:
    """images: what `open_image` reads.  workers: processes (vlp/system/parallel.py)."""
    files: list[bytes] = []
    pixels: dict[int, bytes] = {}
    thumbnails = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8)
    unreadable: dict[int, str] = {}
    for index, (file, plain, small, reason) in enumerate(parallel_map(_fingerprint, images, workers=workers)):
        files.append(file)
        if reason:
            unreadable[index] = reason
            continue
        thumbnails[index] = np.frombuffer(small, dtype=np.uint8).reshape(SIDE, SIDE)
        if plain:
            pixels[index] = plain
    return Fingerprints(files, pixels, thumbnails, perceptual_hashes(thumbnails), unreadable)


def _fingerprint(image: Any) -> tuple[bytes, bytes, bytes, str]:
    """sha256 of the file, sha256 of the pixels of a plain picture, thumbnail, reason why it cannot be read."""
    try:
        small = thumbnail(open_image(image, decode_side=DECODE_SIDE))
        plain = low_information(small[None])[0]
        pixels = _pixels(to_rgb(open_image(image))) if plain else b""
        return file_sha256(image), pixels, small.tobytes(), ""
    except ImageError as error:
        return b"", b"", b"", error.reason


def _pixels(image: PIL.Image.Image) -> bytes:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
