"""One example at a time: image opened and transformed, captions chosen, all from a seed of (run, epoch, sample).

A training image that cannot be read is replaced by the next one of the split, so that all ranks take equally many steps;
it is recorded once in `data_issues.jsonl`, and too many of them end the run. In evaluation it is an error.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from vlp import distributed
from vlp.data.collate import LoadedExample
from vlp.data.images import ImageError, decode_region
from vlp.data.issues import DataError
from vlp.data.marks import draw_marks
from vlp.data.pixel_labels import view_labels
from vlp.data.sample_boxes import project_sample_boxes
from vlp.data.sample_photos import open_sample_photo
from vlp.data.sampler import SampleKey
from vlp.data.transforms import Transform
from vlp.data.view import to_full_image
from vlp.random import mix, seeded
from vlp.structures import Sample
from vlp.system.errors import UserError
from vlp.system.fault_injection import inject

ImageTransform = Callable[
    [PIL.Image.Image], Tensor
]  # a `Transform` also takes a file and decodes no more than it needs


class ExampleDataset(torch.utils.data.Dataset[LoadedExample]):
    """Loaded examples by key (epoch, index).

    captions: how many of an image's captions a training example has, chosen at random in each epoch (all, if the image
    has fewer); "all": each caption is an example of its own, so `index` counts captions.
    issues_path: the `data_issues.jsonl`; None = warn.  prefetch: called with (epoch, sample) before the sample is read.
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
        prefetch: Callable[[int, int], None] | None = None,
    ) -> None:
        self.prefetch = prefetch
        self.samples, self.name, self.transform, self.training = samples, name, transform, training
        self.seed, self.captions = seed, captions
        self.max_bad_fraction, self.issues_path = max_bad_fraction, issues_path
        self.owner: Tensor | None = None
        if training and captions == "all":
            counts = torch.tensor([max(1, len(sample.captions)) for sample in samples])
            self.owner = torch.repeat_interleave(torch.arange(len(samples)), counts)
            self.first_caption = counts.cumsum(0) - counts
        self._unreadable = torch.zeros(len(samples), dtype=torch.uint8).share_memory_()  # by all workers

    def __len__(self) -> int:
        return len(self.samples) if self.owner is None else len(self.owner)

    @property
    def bad_samples(self) -> int:
        """The number of images that this process and its workers could not read so far."""
        return int(self._unreadable.sum())

    def __getitem__(self, key: SampleKey) -> LoadedExample:
        epoch, index = key
        if self.training:
            inject("loading")
        position = index if self.owner is None else int(self.owner[index])
        seed = mix(self.seed, epoch, index)
        if self.prefetch is not None:
            self.prefetch(epoch, position)
        for candidate in range(position, position + len(self.samples)):
            try:
                sample = self.samples[candidate % len(self.samples)]
                caption_number = None if self.owner is None else index - int(self.first_caption[position])
                chosen = self._choose_captions(len(sample.captions), caption_number, random.Random(seed))
                image_fields = self._load_image(sample, chosen, seed)
            except ImageError as error:
                self._report_unreadable(candidate % len(self.samples), error)
                continue
            return LoadedExample(
                sample=sample,
                seed=seed,
                captions=tuple(sample.captions[number] for number in chosen),
                also_true=tuple(sample.also_true[number] for number in chosen) if sample.also_true else (),
                **image_fields,
            )
        raise UserError(f"no image of {self.name} can be read; the first is {self._image_name(position)}")

    def _load_image(self, sample: Sample, captions: list[int], seed: int) -> dict[str, Any]:
        """The LoadedExample's fields of pixels, boxes and segments.  captions: those chosen.  Raises ImageError."""
        if not sample.has_image:
            return {"pixels": None}
        photo = open_sample_photo(sample)
        has_regions = sample.boxes is not None or sample.panoptic is not None or sample.label_map is not None
        if not isinstance(self.transform, Transform):  # any function of a decoded image
            if has_regions:
                raise UserError(
                    f"{self.name} has boxes or segments, which {self.transform} cannot map: set data.boxes=false and "
                    "data.panoptic=false, or use a transform of vlp.data.transforms"
                )
            with seeded(seed):
                return {"pixels": self.transform(decode_region(photo))}
        if has_regions and self.transform.moves_pixels:
            raise UserError(
                f"{self.name} has boxes or segments, and RandAugment shears and rotates photos without them: set "
                "transform.train.rand_augment=null"
            )
        try:
            pixels, view = self.transform.render(photo, seed)
        except ImageError as error:
            if str(error).startswith(photo.source):
                raise  # else it is a transform's, which does not know the path
            raise ImageError(f"{photo.source}: {str(error).replace(': ', ', ')}") from error
        view = to_full_image(photo, view)
        image_fields: dict[str, Any] = {"pixels": draw_marks(pixels, view, sample), "frame": view.frame}
        if sample.boxes is not None:
            boxes = project_sample_boxes(sample, view, photo.full_size, captions, training=self.training)
            image_fields["boxes"] = boxes
        if sample.panoptic is not None or sample.label_map is not None:
            try:
                image_fields["segmentation"], image_fields["segments"] = view_labels(sample, view, photo.full_size)
            except DataError as error:
                raise ImageError(str(error)) from error
        return image_fields

    def _image_name(self, position: int) -> str:
        try:
            return str(self.samples[position].image)
        except ImageError as error:
            return str(error)

    def _choose_captions(self, count: int, caption_number: int | None, rng: random.Random) -> list[int]:
        """Indices of the chosen captions.  count: how many the image has.  caption_number: this one alone, if not None."""
        if not self.training or not count:
            return list(range(count))
        if caption_number is not None:
            return [caption_number % count]  # the image that replaces an unreadable one may have fewer captions
        return rng.sample(range(count), min(int(self.captions), count))

    def _report_unreadable(self, index: int, error: ImageError) -> None:
        """Records a training image, once; raises in evaluation and if there are too many."""
        if not self.training:
            raise ImageError(
                f"{self.name} data: skipping an image would change the metric; repair or remove {error}"
            ) from error
        if self._unreadable[index]:
            return
        self._unreadable[index] = 1
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
            # one write to a file opened for appending is not mixed with those of other workers
            handle = os.open(self.issues_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(handle, (json.dumps(line) + "\n").encode())
            os.close(handle)
        if self.bad_samples > self.max_bad_fraction * len(self.samples):
            raise ImageError(
                f"{self.bad_samples} of {len(self.samples)} training images of {self.name} cannot be read, more than "
                f"data.max_bad_fraction={self.max_bad_fraction:g}; the last one: {error}"
            )
