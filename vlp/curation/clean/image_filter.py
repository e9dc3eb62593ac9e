"""Which images go: too small or long, unreadable, also in an evaluation set, or copies of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport
from vlp.curation.duplicates.fingerprints import Fingerprints, fingerprints
from vlp.data.images import ImageError, image_size
from vlp.system.parallel import parallel_map


@dataclass(frozen=True)
class Listed:
    """An image of a split or of an evaluation set. A copy is dropped from the lower rank; equal ranks are one split."""

    image: Any  # what `open_image` reads
    name: str
    rank: int
    captions: int
    cleaned: bool  # may be dropped


def misshapen(listed: Sequence[Listed], options: CleanOptions, report: CleanReport) -> set[int]:
    """Indices of the images that are dropped for their size; of the files only the headers are read."""
    if not options.min_side and not options.max_aspect:
        return set()
    indices = [index for index, entry in enumerate(listed) if entry.cleaned]
    dropped = set()
    for index, size in zip(
        indices,
        parallel_map(_size, [listed[index].image for index in indices], workers=options.workers or None),
        strict=True,
    ):
        place = str(listed[index].image)
        if isinstance(size, str):
            if not options.unreadable:
                continue
            report.drop("image", "unreadable image", f"{place}: {size}")
        elif min(size) < options.min_side:
            report.drop("image", "small image", f"{place}: {size[0]}×{size[1]}")
        elif 0 < options.max_aspect * min(size) < max(size):
            report.drop("image", "long, narrow image", f"{place}: {size[0]}×{size[1]}")
        else:
            continue
        dropped.add(index)
    return dropped


def _size(image: Any) -> tuple[int, int] | str:
    try:
        return image_size(image)
    except ImageError as error:
        return error.reason


def copies(listed: Sequence[Listed], options: CleanOptions, report: CleanReport) -> set[int]:
    """Indices of the images that are dropped as unreadable or as copies. Each dropped copy looks like an image that stays, or
    that another split or an evaluation set holds: likeness is not passed on along a chain."""
    if not (options.unreadable or options.near_duplicates or options.evaluation):
        return set()
    prints = fingerprints([entry.image for entry in listed], workers=options.workers or None)
    near = _near(listed, prints, options)
    holders: dict[int, dict[int, int]] = {}  # of each file, an image of each rank
    for index, entry in enumerate(listed):
        holders.setdefault(int(prints.first[index]), {}).setdefault(entry.rank, index)
    kept: dict[tuple[int, int], int] = {}  # by file and rank
    dropped = set()
    order = [index for index, entry in enumerate(listed) if entry.cleaned]
    if options.most_captions:
        order.sort(key=lambda index: -listed[index].captions)
    for index in order:
        entry, file = listed[index], int(prints.first[index])
        if index in prints.unreadable:
            if options.unreadable:
                report.drop("image", "unreadable image", f"{entry.image}: {prints.unreadable[index]}")
                dropped.add(index)
            continue
        for other, bits in ((file, 0), *near.get(file, ())):
            elsewhere = [i for rank, i in holders[other].items() if rank > entry.rank] if options.evaluation else []
            copy = kept.get((other, entry.rank)) if options.near_duplicates else None
            if elsewhere or copy is not None:
                twin = listed[elsewhere[0] if elsewhere else copy]  # type: ignore[index]
                reason = f"image also in {twin.name}" if elsewhere else "image like another one"
                report.drop("image", reason, f"{entry.image} = {twin.image} ({bits} bits)")
                dropped.add(index)
                break
        else:
            kept.setdefault((file, entry.rank), index)
    report.uncompared = sum(not listed[index].cleaned for index in prints.unreadable)
    return dropped


def _near(listed: Sequence[Listed], prints: Fingerprints, options: CleanOptions) -> dict[int, list[tuple[int, int]]]:
    """For each file the others that look like it, with the distance."""
    near: dict[int, list[tuple[int, int]]] = {}
    if options.near_duplicates or options.evaluation:
        groups = None if options.near_duplicates else np.array([entry.rank for entry in listed], dtype=np.int64)
        for left, right, bits in prints.pairs_alike(groups, distance=options.distance):
            near.setdefault(left, []).append((right, bits))
            near.setdefault(right, []).append((left, bits))
    return near
