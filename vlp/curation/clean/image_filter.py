"""Selects the images to drop: too small or narrow, unreadable, also in an evaluation set, or copies of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlp.curation.clean.options import CleanOptions
from vlp.curation.clean.report import CleanReport
from vlp.curation.duplicates.fingerprints import Fingerprints, compute_fingerprints
from vlp.data.images import ImageError, image_size
from vlp.system.parallel import parallel_map


@dataclass(frozen=True)
class ListedImage:
    """An image of a split or of an evaluation set. A copy is dropped from the lower rank; equal ranks are one split."""

    image: Any  # what `open_image` reads
    name: str
    rank: int
    captions: int
    cleaned: bool  # may be dropped


def find_unusable_images(listed: Sequence[ListedImage], options: CleanOptions, report: CleanReport) -> set[int]:
    """Indices of the images to drop for their size or an unreadable header; only the headers of the files are read."""
    if not options.min_side and not options.max_aspect:
        return set()
    indices = [index for index, entry in enumerate(listed) if entry.cleaned]
    sizes = parallel_map(_size_or_error, [listed[index].image for index in indices], workers=options.workers or None)
    dropped = set()
    for index, size in zip(indices, sizes, strict=True):
        if isinstance(size, str):
            reason, detail = "unreadable image" if options.unreadable else None, size
        else:
            reason, detail = _size_fault(size, options), f"{size[0]}×{size[1]}"
        if reason is not None:
            report.add_dropped("image", reason, f"{listed[index].image}: {detail}")
            dropped.add(index)
    return dropped


def _size_fault(size: tuple[int, int], options: CleanOptions) -> str | None:
    if min(size) < options.min_side:
        return "small image"
    return "long, narrow image" if 0 < options.max_aspect * min(size) < max(size) else None


def _size_or_error(image: Any) -> tuple[int, int] | str:
    try:
        return image_size(image)
    except ImageError as error:
        return error.reason


def find_copies(listed: Sequence[ListedImage], options: CleanOptions, report: CleanReport) -> set[int]:
    """Indices of the images to drop as unreadable or as copies. Each dropped copy is similar to an image that is kept, or to one
    of another split or an evaluation set; similarity is not followed along a chain."""
    if not (options.unreadable or options.near_duplicates or options.evaluation):
        return set()
    fingerprints = compute_fingerprints([entry.image for entry in listed], workers=options.workers or None)
    near = _near_files(listed, fingerprints, options)
    by_file: dict[int, dict[int, int]] = {}  # of each file, an image of each rank
    for index, entry in enumerate(listed):
        by_file.setdefault(int(fingerprints.first_copy[index]), {}).setdefault(entry.rank, index)
    kept: dict[tuple[int, int], int] = {}  # by file and rank
    dropped = set()
    order = [index for index, entry in enumerate(listed) if entry.cleaned]
    if options.most_captions:
        order.sort(key=lambda index: -listed[index].captions)
    for index in order:
        entry, file = listed[index], int(fingerprints.first_copy[index])
        if index in fingerprints.unreadable:
            if options.unreadable:
                report.add_dropped("image", "unreadable image", f"{entry.image}: {fingerprints.unreadable[index]}")
                dropped.add(index)
            continue
        for similar, bits in ((file, 0), *near.get(file, ())):
            in_later_set = (
                [i for rank, i in by_file[similar].items() if rank > entry.rank] if options.evaluation else []
            )
            copy = kept.get((similar, entry.rank)) if options.near_duplicates else None
            if in_later_set or copy is not None:
                other_image = listed[in_later_set[0] if in_later_set else copy]  # type: ignore[index]
                reason = f"image also in {other_image.name}" if in_later_set else "image like another one"
                report.add_dropped("image", reason, f"{entry.image} = {other_image.image} ({bits} bits)")
                dropped.add(index)
                break
        else:
            kept.setdefault((file, entry.rank), index)
    report.uncompared = sum(not listed[index].cleaned for index in fingerprints.unreadable)
    return dropped


def _near_files(
    listed: Sequence[ListedImage], fingerprints: Fingerprints, options: CleanOptions
) -> dict[int, list[tuple[int, int]]]:
    """For each file its near duplicates, with the distance of the hashes."""
    near: dict[int, list[tuple[int, int]]] = {}
    if options.near_duplicates or options.evaluation:
        groups = None if options.near_duplicates else np.array([entry.rank for entry in listed], dtype=np.int64)
        for left, right, bits in fingerprints.near_duplicates(groups, max_distance=options.distance):
            near.setdefault(left, []).append((right, bits))
            near.setdefault(right, []).append((left, bits))
    return near
