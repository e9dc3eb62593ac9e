"""One example at a time: image opened and transformed, captions chosen, all from a seed of (run, epoch, sample).

A training image that cannot be read is replaced by the next one of the split, so that all ranks still make equal steps;
it is written once to `data_issues.jsonl`, and too many of them end the run. In evaluation it is an error.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from vlp import distributed
from vlp.data.collate import Example
from vlp.data.images import ImageError, load, open_photo
from vlp.data.issues import DataError
from vlp.data.sampler import Key
from vlp.data.transforms import Transform
from vlp.data.view import class_map, in_whole
from vlp.random import mix, seeded
from vlp.structures import Boxes, Sample
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject

ImageTransform = Callable[[PIL.Image.Image], Tensor]  # those of vlp also take a file, and decode no more than they need


class Examples(torch.utils.data.Dataset[Example]):
    """Example of a key (epoch, index).

    captions: how many of an image's captions a training example gets, drawn anew in each epoch (an image with fewer
    gives all it has); "all": each caption is an example of its own, so `index` counts captions.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        name: str,
        transform: ImageTransform,
        training: bool,
        seed: int = 0,
        captions: int | str = 1,
        max_bad_fraction: int | float = 0.01,
        issues_path: Path | None = None,
        expect: Callable[[int, int], None] | None = None,
    ) -> None:
        self.expect = expect
        self.samples, self.name, self.transform, self.training = samples, name, transform, training
        self.seed, self.captions = seed, captions
        self.max_bad_fraction, self.issues_path = max_bad_fraction, issues_path
        self.owner: Tensor | None = None
        if training and captions == "all":
            counts = torch.tensor([max(1, len(sample.captions)) for sample in samples])
            self.owner = torch.repeat_interleave(torch.arange(len(samples)), counts)
            self.first = counts.cumsum(0) - counts
        self._bad = torch.zeros(len(samples), dtype=torch.uint8).share_memory_()  # seen by all workers of this process

    def __len__(self) -> int:
        return len(self.samples) if self.owner is None else len(self.owner)

    @property
    def bad_samples(self) -> int:
        """How many different images could not be read so far, by this process and its workers."""
        return int(self._bad.sum())

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        if self.training:
            inject("loading")
        position = index if self.owner is None else int(self.owner[index])
        seed = mix(self.seed, epoch, index)
        if self.expect is not None:
            self.expect(epoch, position)
        for place in range(position, position + len(self.samples)):
            try:
                sample = self.samples[place % len(self.samples)]
                seen = self._look(sample, seed)
            except ImageError as error:
                self._report(place % len(self.samples), error)
                continue
            turn = None if self.owner is None else index - int(self.first[position])
            chosen = self._choose(len(sample.captions), turn, random.Random(seed))
            return Example(
                sample=sample,
                seed=seed,
                captions=tuple(sample.captions[place] for place in chosen),
                also_true=tuple(sample.also_true[place] for place in chosen) if sample.also_true else (),
                **seen,
            )
        raise UserError(f"no image of {self.name} can be read; the first is {self._place(position)}")

    def _look(self, sample: Sample, seed: int) -> dict[str, Any]:
        """The pixels, and what the data know of places in them.  Raises ImageError."""
        photo = open_photo(sample.image)
        if sample.crop is not None:
            photo = photo.within(sample.crop)
        placed = sample.boxes is not None or sample.panoptic is not None
        if not isinstance(self.transform, Transform):  # any function of a decoded image
            if placed:
                raise UserError(f"{self.name} has boxes or segments, which {self.transform} does not move")
            with seeded(seed):
                return {"pixels": self.transform(load(photo))}
        if placed and self.transform.shears:
            raise UserError(
                f"{self.name} has boxes or segments, and RandAugment shears and turns photos without them: set "
                "transform.train.rand_augment=null"
            )
        try:
            pixels, view = self.transform.look(photo, seed)
        except ImageError as error:  # of a transform, which knows no path
            if str(error).startswith(photo.place):
                raise
            raise ImageError(f"{photo.place}: {str(error).replace(': ', ', ')}") from error
        seen: dict[str, Any] = {"pixels": pixels}
        view = in_whole(photo, view)
        if sample.boxes is not None:
            corners, kept = view.boxes(sample.boxes)
            labels = [sample.box_labels[i] for i in kept] if sample.box_labels else [-1] * len(kept)
            seen["boxes"] = Boxes(xyxy=corners, label=torch.tensor(labels, dtype=torch.int64))
        if sample.panoptic is not None:
            try:
                classes = class_map(sample, photo.whole)
            except DataError as error:
                raise ImageError(str(error)) from error
            seen["segmentation"] = view.classes(torch.from_numpy(classes.astype(np.int64)))
        return seen

    def _place(self, position: int) -> str:
        try:
            return str(self.samples[position].image)
        except ImageError as error:
            return str(error)

    def _choose(self, count: int, turn: int | None, draws: random.Random) -> list[int]:
        """Which of so many captions."""
        if not self.training or not count:
            return list(range(count))
        if turn is not None:
            return [turn % count]  # the remainder only matters for the stand-in of a bad image
        return draws.sample(range(count), min(int(self.captions), count))

    def _report(self, index: int, error: ImageError) -> None:
        """Notes a bad training image, once; raises in evaluation and when there are too many."""
        if not self.training:
            raise ImageError(
                f"{self.name} data: skipping an image would change the metric; repair or remove {error}"
            ) from error
        if self._bad[index]:
            return
        self._bad[index] = 1
        line = {
            "split": "train",
            "source": self.name,
            "file": str(error).removesuffix(f": {error.reason}"),
            "reason": error.reason,
            "rank": distributed.rank(),
        }
        if self.issues_path is None:
            warnings.warn(f"skipped a training image of {self.name}: {error}", stacklevel=2)
        else:
            # one write to a file opened for appending is not torn apart by other workers
            handle = os.open(self.issues_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(handle, (json.dumps(line) + "\n").encode())
            os.close(handle)
        if self.bad_samples > self.max_bad_fraction * len(self.samples):
            raise ImageError(
                f"{self.bad_samples} of {len(self.samples)} training images of {self.name} cannot be read, more than "
                f"data.max_bad_fraction={self.max_bad_fraction:g}; the last one: {error}"
            )
