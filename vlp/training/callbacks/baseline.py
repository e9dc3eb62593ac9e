"""What colour histograms and bags of words reach on the test split, logged as test/<source>/ridge_baseline/<metric>
for each source that has captions.

Fitted on training images through the evaluation transform, so it sees what the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from vlp.data.datamodule import DataModule
from vlp.data.images import ImageError, open_image
from vlp.data.sampler import evaluated_positions
from vlp.metrics.recall import recall_from_scores
from vlp.metrics.ridge_baseline import ridge_similarity
from vlp.structures import Sample


class RidgeBaseline(Callback):
    """train_images: how many training images it is fitted on, the first of the split."""

    def __init__(self, *, train_images: int = 8000) -> None:
        self.train_images = train_images

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        figures: dict[str, float] = {}
        for name, source in trainer.datamodule.sources_with_split("test").items():  # type: ignore[attr-defined]
            counts = pl_module.measurement.samples().get(name, ())
            found = self._recall(source, evaluated_positions(len(source.split("test")), counts))
            figures |= {f"test/{name}/ridge_baseline/{metric}": value for metric, value in found.items()}
        pl_module.log_dict(figures)

    def _recall(self, data: DataModule, positions: Sequence[int]) -> dict[str, float]:
        """Empty for a source without captions, where retrieval is not measured either.  positions: of the test samples that the
        model was measured on."""
        train, split = data.split("train"), data.split("test")
        test = [split[position] for position in positions]
        fit: list[Sample] = []
        seen: list[torch.Tensor] = []

        def pixels(sample: Sample) -> torch.Tensor:
            return data.transform["eval"](open_image(sample.image))

        for index in range(min(self.train_images, len(train))):
            with suppress(ImageError):  # what training replaces and counts
                sample = train[index]
                if not sample.captions:
                    return {}
                seen.append(pixels(sample))
                fit.append(sample)
        if not fit or not test or not all(sample.captions for sample in test):
            return {}
        scores = ridge_similarity(
            train_pixels=torch.stack(seen),
            train_captions=[sample.captions for sample in fit],
            pixels=torch.stack([pixels(sample) for sample in test]),
            captions=[caption for sample in test for caption in sample.captions],
        )
        ids = torch.tensor([sample.id for sample in test])
        text_ids = torch.tensor([sample.id for sample in test for _ in sample.captions])
        return recall_from_scores(scores, ids, text_ids)
