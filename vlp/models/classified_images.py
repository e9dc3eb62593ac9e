"""Features and classes of the images that a measurement has seen, from batch to batch and over all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.models.equal_inputs import EmbeddingStore
from vlp.structures import Batch, require
from vlp.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Of all ranks: features by kind [n d], on the device, those of equal images equal. Images have one known class each (`label`)
    or any number (`categories`); the other is None."""

    features: dict[str, Float[Tensor, "n _"]]
    label: Int[Tensor, " n"] | None
    categories: Bool[Tensor, "n c"] | None


class ClassifiedImages:
    """kinds: names of the features."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._stores = {kind: EmbeddingStore() for kind in kinds}
        self._label: list[Tensor] = []  # -1 where unknown
        self._categories: list[Tensor] = []  # of each image, one column for each class

    def add(self, features: Mapping[str, Float[Tensor, "b _"]], batch: Batch) -> None:
        for kind, store in self._stores.items():
            store.add(features[kind], require(batch.image))
        if batch.categories is not None:
            self._categories.append(batch.categories.cpu())
        elif batch.label is not None:
            self._label.append(batch.label.cpu())

    def unknown(self) -> int:
        """How many images of this rank have no known class."""
        unknown = sum(int((label < 0).sum()) for label in self._label)
        return unknown + sum(int((~categories.any(1)).sum()) for categories in self._categories)

    def gather(self, device: torch.device, classes: int, *, task: str) -> Classified:
        """Raises UserError where no image has a known class, or some have one label and others several categories."""

        def gather_parts(parts: list[Tensor], empty: Tensor) -> Tensor:
            return distributed.gather(torch.cat([empty, *parts]).to(device)).cpu()

        label = gather_parts(self._label, torch.zeros(0, dtype=torch.int64))
        categories = gather_parts(self._categories, torch.zeros(0, classes, dtype=torch.bool))
        features = {kind: store.gather_embeddings(device) for kind, store in self._stores.items()}
        if len(label) and len(categories):
            raise UserError("this source mixes images of one label with images of several categories; split it in two")
        known = label >= 0
        if not bool(categories.any()) and not bool(known.any()):
            raise UserError(f"{task}: no image has a known class; leave the task out of task=[…]")
        if len(categories):
            return Classified(features=features, label=None, categories=categories)
        rows = known.to(device)
        return Classified(
            features={kind: values[rows] for kind, values in features.items()}, label=label[known], categories=None
        )


def has_classes(batch: Batch) -> bool:
    """Whether the batch has classes of its images: categories always are, a label beside choices says which of them is right."""
    return batch.categories is not None or (batch.choices is None and batch.label is not None)


def best_classes(
    batch: Batch, scores: Float[Tensor, "b c"], names: Sequence[str], count: int = 5
) -> list[dict[str, object]]:
    """For each image the names of the `count` classes that score highest with their scores, as a task's `predict` gives them."""
    best, index = scores.topk(min(count, scores.shape[1]))
    return [
        {"sample": sample, "classes": [(names[i], score) for i, score in zip(row, values, strict=True)]}
        for sample, row, values in zip(batch.sample.tolist(), index.tolist(), best.tolist(), strict=True)
    ]
