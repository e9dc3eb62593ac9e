"""The pictures of samples as an evaluation transform shows them, without augmentation, each by its position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlp.data.collate import pad_images
from vlp.data.datamodule import DataModule
from vlp.data.example_dataset import ExampleDataset, ImageTransform
from vlp.data.images import ImageError
from vlp.data.loader import Loader, prepare_worker
from vlp.structures import Image, Sample


class TransformedPictures(torch.utils.data.Dataset[tuple[int, Tensor | None]]):
    """(position, pixels) of samples; boxes and segments are not read.  skip_unreadable: pixels are None where a picture cannot be
    read; else that raises ImageError."""

    def __init__(
        self, samples: Sequence[Sample], *, name: str, transform: ImageTransform, skip_unreadable: bool = False
    ) -> None:
        self.examples = ExampleDataset(_WithoutRegions(samples), name=name, transform=transform, training=False)
        self.skip_unreadable = skip_unreadable

    def __getitem__(self, position: int) -> tuple[int, Tensor | None]:
        try:
            return position, self.examples[(0, position)].pixels
        except ImageError:
            if not self.skip_unreadable:
                raise
            return position, None


class _WithoutRegions(Sequence[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return replace(
            self.samples[index], boxes=None, box_labels=(), box_captions=(), box_crowds=(), box_masks=(), panoptic=None,
            segments=(), label_map=None, label_classes=b"", marks=(), mark_colours=(),
        )  # fmt: skip


def picture_loader(pictures: TransformedPictures, batches: Sequence[Sequence[int]], data: DataModule) -> Loader:
    """Of (positions, Image) for each of these batches of positions, by the workers that `data` has; pictures that were skipped are
    left out, and of a batch without any the Image is None."""
    return Loader(
        pictures,
        batch_sampler=[list(batch) for batch in batches],
        collate_fn=_join,
        num_workers=data.num_workers,
        worker_init_fn=prepare_worker,
        timeout=data.timeout if data.num_workers else 0,
        generator=torch.Generator().manual_seed(0),
    )


def _join(items: Sequence[tuple[int, Tensor | None]]) -> tuple[list[int], Image | None]:
    found = [(position, pixels) for position, pixels in items if pixels is not None]
    positions = [position for position, _ in found]
    return positions, pad_images([pixels for _, pixels in found]) if found else None
