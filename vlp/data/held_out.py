"""val, where a data set has none: some of the training images, always the same."""

from __future__ import annotations

from vlp.data.faults import Faults
from vlp.random import permutation
from vlp.structures import Sample


def hold_out(
    samples: list[Sample], count: int, split: str, *, name: str | None, faults: Faults | None = None
) -> list[Sample]:
    """val: all samples of `count` of the images, drawn once and for all; train: the others."""
    images = list(dict.fromkeys(sample.id for sample in samples))
    if count >= len(images) > 0:
        faults = faults or Faults()
        if split == "val" or not faults.collect:  # else it would be told twice
            message = f"cannot hold out {count} of the {len(images)} training images of {name}: set data.held_out lower"
            faults.error("too few images to hold out", message)
        return samples if split == "train" else []
    chosen = {images[index] for index in permutation(len(images), 0)[:count].tolist()}
    return [sample for sample in samples if (sample.id in chosen) == (split == "val")]
