"""Of each picture of a split another one, to see what a task owes to the right one (incongruent decoding, Elliott, D18-1329).

The pictures, ordered by a hash of their ids, form a ring, and each is given the next: no picture is its own, each is used once, and
which it is depends on the pictures of the split alone, not on batches or processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.data.collate import pad_images
from vlp.data.pictures import TransformedPictures
from vlp.random import mix
from vlp.structures import Image, require
from vlp.system.errors import UserError


def next_in_ring(ids: Sequence[int]) -> dict[int, int]:
    """Of each different id another one.  Raises UserError for fewer than two."""
    ring = sorted(set(ids), key=lambda number: (mix(number), number))
    if len(ring) < 2:
        raise UserError("photos=[shuffled] gives each picture that of another sample: it needs two pictures at least")
    return dict(zip(ring, [*ring[1:], ring[0]], strict=True))


class OtherPictures:
    """data: the DataModule that is measured.  split: "val" or "test"."""

    def __init__(self, data: Any, split: str) -> None:
        self._samples = data.split(split)
        self._positions: dict[int, int] = {}
        for position, sample in enumerate(self._samples):
            if sample.has_image:
                self._positions.setdefault(sample.id, position)
        self._next = next_in_ring(list(self._positions)) if self._positions else {}
        self._pictures = TransformedPictures(self._samples, name=str(data.name), transform=data.transform["eval"])

    def images(self, ids: Sequence[int]) -> Image:
        """Another picture than each of these, as the evaluation transform shows it.  Raises ImageError."""
        return pad_images([require(self._pictures[self._positions[self._next[number]]][1]) for number in ids])
