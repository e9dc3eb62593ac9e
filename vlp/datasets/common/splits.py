"""What data sets have in common about their splits: their names, and val where a data set has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from vlp.data.datamodule import SPLITS
from vlp.data.issues import Faults, join_first_five
from vlp.random import permutation
from vlp.structures import Sample
from vlp.system.errors import UserError

Value = TypeVar("Value")


def named_splits(given: Mapping[str, Value | None] | None, *, setting: str) -> dict[str, Value | None]:
    """The value of each of our splits, None where it is not given.  setting: its key, for the message.  Raises UserError for a
    split of another name, which nothing would read."""
    unknown = [name for name in given or {} if name not in SPLITS]
    if unknown:
        raise UserError(f"{setting}.{unknown[0]}: there is no such split; use {', '.join(SPLITS)}")
    return {split: (given or {}).get(split) for split in SPLITS}


def drop_overlap(
    samples: list[Sample], split: str, others: Mapping[str, list[Sample]], *, name: str | None, faults: Faults
) -> list[Sample]:
    """Those whose photos are in none of `others`, the splits that were read before, by the photos' ids; the rest is a fault."""
    own = {sample.id: str(sample.image) for sample in samples}
    for other, known in others.items():
        both = own.keys() & {sample.id for sample in known}
        if both:
            names = sorted(own[photo] for photo in both)
            message = f"{name}: {len(both)} images are in {other} and in {split}: {join_first_five(names)}"
            faults.error("image in two splits", message, count=len(both))
            samples = [sample for sample in samples if sample.id not in both]
    return samples


def source_split(split: str, held_out: int) -> str:
    """The split whose files are read: train for val, where that is held out of it."""
    return "train" if split == "val" and held_out else split


def samples_of_split(
    split: str,
    held_out: int,
    known: dict[str, list[Sample]],
    read: Callable[[str], list[Sample]],
    *,
    name: str | None,
    faults: Faults,
) -> list[Sample]:
    """Of a data set where val is `held_out` of the training images, or has files of its own (0).  known: what was read, by the
    split of the files.  read: the samples of such a split."""
    source = source_split(split, held_out)
    if source not in known:
        known[source] = read(source)
    if not held_out or source != "train":
        return known[source]
    return hold_out(known[source], held_out, split, name=name, faults=faults)


def hold_out(
    samples: list[Sample], count: int, split: str, *, name: str | None, faults: Faults | None = None
) -> list[Sample]:
    """val: all samples of `count` of the images, drawn once and for all; train: the others."""
    images = list(dict.fromkeys(sample.id for sample in samples))
    if count >= len(images) > 0:
        faults = faults or Faults()
        if split == "val" or not faults.collect:  # else it would be reported twice
            message = f"cannot hold out {count} of the {len(images)} training images of {name}: set data.held_out lower"
            faults.error("too few images to hold out", message)
        return samples if split == "train" else []
    chosen = {images[index] for index in permutation(len(images), 0)[:count].tolist()}
    return [sample for sample in samples if (sample.id in chosen) == (split == "val")]
