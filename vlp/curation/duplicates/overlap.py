"""The photos and captions that several data sets, or several splits of one, have in common.

Each common photo is reported once, by the strongest evidence: the same id, else the same file, else the same picture
(fingerprints.py). Equal ids are an overlap only if the pictures agree; where they do not, the ids of the two
data sets mean different things, or one of the files is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from vlp.curation.duplicates.fingerprints import Fingerprints, Pair, compute_fingerprints
from vlp.data.issues import MAX_EXAMPLES
from vlp.structures import Sample
from vlp.system.units import printable

Evidence = Literal["id", "same file", "looks alike", "same id, other picture"]
_VERBS: dict[Evidence, str] = {
    "id": "have the same id",
    "same file": "are the same file",
    "looks alike": "look alike",
    "same id, other picture": "have the same id but are different pictures",
}


@dataclass(frozen=True)
class OverlapExample:
    """left, right: the files.  distance: bits of the perceptual hash; None where the pictures were not compared, or differ."""

    left: str
    right: str
    distance: int | None


@dataclass(frozen=True)
class Overlap:
    """count: photos that are in both; several copies on one side are one photo."""

    left: str
    right: str
    how: Evidence
    count: int
    examples: tuple[OverlapExample, ...]

    def __str__(self) -> str:
        sign = "≠" if self.how == "same id, other picture" else "="
        examples = "; ".join(f"{printable(e.left)} {sign} {printable(e.right)}" for e in self.examples[:2])
        return f"{self.left} and {self.right}: {self.count} photos {_VERBS[self.how]}, such as {examples}"


@dataclass(frozen=True)
class SharedCaptions:
    """Captions that are word for word in both: no error, for different photos can be described in the same words."""

    left: str
    right: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Unreadable:
    """Images that could not be compared; each example is "<file>: <reason>"."""

    name: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class OverlapReport:
    images: dict[str, int]  # different files by name
    overlaps: tuple[Overlap, ...]
    captions: tuple[SharedCaptions, ...]
    unreadable: tuple[Unreadable, ...]


_Match = tuple[int, int, int | None]  # an image of each source, and the distance of their hashes


@dataclass
class _SourceImages:
    start: int  # of its images among those of all sources
    images: list[Any] = field(default_factory=list)
    by_id: dict[int, int] = field(default_factory=dict)  # the image's index among all
    captions: set[str] = field(default_factory=set)

    @property
    def indices(self) -> range:
        return range(self.start, self.start + len(self.images))


def find_overlaps(sources: Mapping[str, Iterable[Sample]], *, workers: int | None = None) -> OverlapReport:
    """sources: samples by a name such as "coco/train".  workers: processes, at most 4 by default.

    The records follow the order of the sources; there is none for a pair of sources that have nothing in common.
    """
    collected: dict[str, _SourceImages] = {}
    images: list[Any] = []
    for name, samples in sources.items():
        collected[name] = _collect_images(samples, start=len(images))
        images += collected[name].images
    fingerprints = compute_fingerprints(images, workers=workers)
    groups = np.repeat(np.arange(len(collected)), [len(source.images) for source in collected.values()])
    near = fingerprints.near_duplicates(groups)
    overlaps: list[Overlap] = []
    captions: list[SharedCaptions] = []
    for left, right in combinations(collected, 2):
        matches = _match_images(collected[left], collected[right], near, fingerprints)
        overlaps += [
            Overlap(left, right, how, _count_photos(pairs), _examples(pairs, images))
            for how, pairs in matches.items()
            if pairs
        ]
        shared = collected[left].captions & collected[right].captions
        if shared:
            captions.append(SharedCaptions(left, right, len(shared), tuple(sorted(shared)[:MAX_EXAMPLES])))
    reasons = {index: f"{images[index]}: {reason}" for index, reason in sorted(fingerprints.unreadable.items())}
    unreadable = {
        name: [reason for index, reason in reasons.items() if index in source.indices]
        for name, source in collected.items()
    }
    return OverlapReport(
        images={name: len(source.images) for name, source in collected.items()},
        overlaps=tuple(overlaps),
        captions=tuple(captions),
        unreadable=tuple(
            Unreadable(name, len(texts), tuple(texts[:MAX_EXAMPLES])) for name, texts in unreadable.items() if texts
        ),
    )


def _collect_images(samples: Iterable[Sample], *, start: int) -> _SourceImages:
    source = _SourceImages(start)
    positions: dict[str, int] = {}  # several samples may be about one file
    for sample in samples:
        position = positions.setdefault(str(sample.image), len(positions))
        if position == len(source.images):
            source.images.append(sample.image)
        source.by_id.setdefault(sample.id, start + position)
        source.captions.update(" ".join(caption.split()) for caption in sample.captions)
    return source


def _match_images(
    left: _SourceImages, right: _SourceImages, near: Iterable[Pair], fingerprints: Fingerprints
) -> dict[Evidence, list[_Match]]:
    """Pairs of images, one of each source, by the strongest evidence."""
    first_copy = fingerprints.first_copy
    matches: dict[Evidence, list[_Match]] = {how: [] for how in _VERBS}
    matched_by_id = set()
    for identity in left.by_id.keys() & right.by_id.keys():
        one, other = left.by_id[identity], right.by_id[identity]
        distance = fingerprints.distance_if_same(one, other)
        unknown = one in fingerprints.unreadable or other in fingerprints.unreadable
        matches["id" if unknown or distance is not None else "same id, other picture"].append((one, other, distance))
        if distance is not None:
            matched_by_id.add((int(first_copy[one]), int(first_copy[other])))
    # of each file the first image that has it
    left_files, right_files = (
        {int(first_copy[index]): index for index in reversed(source.indices)} for source in (left, right)
    )
    for file in left_files.keys() & right_files.keys():
        if (file, file) not in matched_by_id:
            matches["same file"].append((left_files[file], right_files[file], 0))
    for first, second, bits in near:
        for one, other in ((first, second), (second, first)):
            if one in left_files and other in right_files and (one, other) not in matched_by_id:
                matches["looks alike"].append((left_files[one], right_files[other], bits))
    return {how: sorted(pairs, key=lambda pair: pair[:2]) for how, pairs in matches.items()}


def _count_photos(pairs: list[_Match]) -> int:
    return min(len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs}))


def _examples(pairs: list[_Match], images: list[Any]) -> tuple[OverlapExample, ...]:
    return tuple(
        OverlapExample(str(images[one]), str(images[other]), bits) for one, other, bits in pairs[:MAX_EXAMPLES]
    )
