"""The photos and captions that several data sets, or several splits of one, have in common.

Each common photo is named once, by the best evidence there is: the same id, else the same file, else the same look
(fingerprints.py). Equal ids are an overlap only if the pictures agree; where they do not, the ids of the two
data sets mean different things, or one of the files is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from vlp.curation.duplicates.fingerprints import Fingerprints, Pair, fingerprints
from vlp.curation.duplicates.perceptual_hash import DISTANCE
from vlp.data.issues import EXAMPLES
from vlp.structures import Sample
from vlp.system.units import printable

How = Literal["id", "same file", "looks alike", "same id, other picture"]
_VERBS: dict[How, str] = {
    "id": "have the same id",
    "same file": "are the same file",
    "looks alike": "look alike",
    "same id, other picture": "have the same id but are different pictures",
}


@dataclass(frozen=True)
class Example:
    """left, right: the files.  distance: bits of the perceptual hash; None where the pictures were not compared, or differ."""

    left: str
    right: str
    distance: int | None


@dataclass(frozen=True)
class Overlap:
    """count: photos that are in both; several copies on one side are one photo."""

    left: str
    right: str
    how: How
    count: int
    examples: tuple[Example, ...]

    def __str__(self) -> str:
        sign = "≠" if self.how == "same id, other picture" else "="
        shown = "; ".join(f"{printable(e.left)} {sign} {printable(e.right)}" for e in self.examples[:2])
        return f"{self.left} and {self.right}: {self.count} photos {_VERBS[self.how]}, such as {shown}"


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


@dataclass
class _Source:
    start: int  # of its images among those of all sources
    images: list[Any] = field(default_factory=list)
    by_id: dict[int, int] = field(default_factory=dict)  # the image's number among all
    captions: set[str] = field(default_factory=set)


def find_overlaps(
    sources: Mapping[str, Iterable[Sample]],
    *,
    distance: int = DISTANCE,
    confirm: bool = True,
    workers: int | None = None,
) -> OverlapReport:
    """sources: samples by a name such as "coco/train".  distance: bits that the hashes of copies may differ in.
    confirm: believe a near hash only if the thumbnails agree.  workers: processes, at most 4 by default.

    The records follow the order of the sources; a pair of them that has nothing in common has none.
    """
    read: dict[str, _Source] = {}
    images: list[Any] = []
    for name, samples in sources.items():
        read[name] = _read(samples, start=len(images))
        images += read[name].images
    prints = fingerprints(images, workers=workers)
    groups = np.repeat(np.arange(len(read)), [len(source.images) for source in read.values()])
    alike = prints.pairs_alike(groups, distance=distance, confirm=confirm)
    members = [
        {int(prints.first[index]): index for index in reversed(range(source.start, source.start + len(source.images)))}
        for source in read.values()
    ]
    overlaps: list[Overlap] = []
    captions: list[SharedCaptions] = []
    for (one, left), (other, right) in combinations(enumerate(read), 2):
        found = _common(read[left], read[right], members[one], members[other], alike, prints)
        overlaps += [
            Overlap(left, right, how, _photos(pairs), _examples(pairs, images)) for how, pairs in found.items() if pairs
        ]
        shared = read[left].captions & read[right].captions
        if shared:
            captions.append(SharedCaptions(left, right, len(shared), tuple(sorted(shared)[:EXAMPLES])))
    return OverlapReport(
        images={name: len(source.images) for name, source in read.items()},
        overlaps=tuple(overlaps),
        captions=tuple(captions),
        unreadable=tuple(_unreadable(read, images, prints)),
    )


def _read(samples: Iterable[Sample], *, start: int) -> _Source:
    source = _Source(start)
    places: dict[str, int] = {}  # several samples may be about one file
    for sample in samples:
        place = places.setdefault(str(sample.image), len(places))
        if place == len(source.images):
            source.images.append(sample.image)
        source.by_id.setdefault(sample.id, start + place)
        source.captions.update(" ".join(caption.split()) for caption in sample.captions)
    return source


def _common(
    left: _Source,
    right: _Source,
    left_files: Mapping[int, int],
    right_files: Mapping[int, int],
    alike: Iterable[Pair],
    prints: Fingerprints,
) -> dict[How, list[tuple[int, int, int | None]]]:
    """Pairs of images, one of each source, with their distance, by the best evidence."""
    found: dict[How, list[tuple[int, int, int | None]]] = {how: [] for how in _VERBS}
    told = set()  # pairs of files that the ids tell of
    for identity in left.by_id.keys() & right.by_id.keys():
        one, other = left.by_id[identity], right.by_id[identity]
        apart = prints.alike(one, other)
        unknown = one in prints.unreadable or other in prints.unreadable
        found["id" if unknown or apart is not None else "same id, other picture"].append((one, other, apart))
        if apart is not None:
            told.add((int(prints.first[one]), int(prints.first[other])))
    for file in left_files.keys() & right_files.keys():
        if (file, file) not in told:
            found["same file"].append((left_files[file], right_files[file], 0))
    for first, second, apart in alike:
        for one, other in ((first, second), (second, first)):
            if one in left_files and other in right_files and (one, other) not in told:
                found["looks alike"].append((left_files[one], right_files[other], apart))
    return {how: sorted(pairs, key=lambda pair: pair[:2]) for how, pairs in found.items()}


def _photos(pairs: list[tuple[int, int, int | None]]) -> int:
    return min(len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs}))


def _examples(pairs: list[tuple[int, int, int | None]], images: list[Any]) -> tuple[Example, ...]:
    return tuple(Example(str(images[one]), str(images[other]), apart) for one, other, apart in pairs[:EXAMPLES])


def _unreadable(read: Mapping[str, _Source], images: list[Any], prints: Fingerprints) -> Iterable[Unreadable]:
    for name, source in read.items():
        bad = [
            index for index in sorted(prints.unreadable) if source.start <= index < source.start + len(source.images)
        ]
        if bad:
            yield Unreadable(
                name, len(bad), tuple(f"{images[index]}: {prints.unreadable[index]}" for index in bad[:EXAMPLES])
            )
