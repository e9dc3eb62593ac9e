"""Retrieval on a data set by the artifact and by the model: paired on the same photos and captions.

Cosines say little about answers: int8 towers with a least cosine of 0.935 changed recall by less than its standard error. So what
decides, where data are given, is R@1 in both directions and how many of the ten best photos of a caption are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlp.deploy.export.gate import Run
from vlp.deploy.export.plan import PlannedGraph
from vlp.metrics.recall import exact_cosines, expected_hit, rank_candidates
from vlp.structures import Sample
from vlp.system.errors import UserError

LARGEST_FALL = 0.5  # points of R@1
LEAST_OVERLAP, TOP = 0.88, 10
IMAGES = 1000  # of a data set, at most
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class RecallComparison:
    """In percent: R@1 of image → text and text → image, of the model and of the artifact.  overlap: share of the ten best photos of
    a caption that are the same, from 0 to 1."""

    images: int
    captions: int
    model: tuple[float, float]
    artifact: tuple[float, float]
    overlap: float

    def fault(self) -> str | None:
        for direction, before, after in zip(("image to text", "text to image"), self.model, self.artifact, strict=True):
            if before - after > LARGEST_FALL:
                return f"R@1 {direction} falls from {before:.1f} to {after:.1f} and may fall by {LARGEST_FALL}"
        if self.overlap < LEAST_OVERLAP:
            return f"{100 * self.overlap:.0f} % of the ten best photos are the same and {100 * LEAST_OVERLAP:.0f} % must be"
        return None


def read_samples(overrides: Sequence[str]) -> list[Sample]:
    """Of the test split, with captions.  Raises UserError where there are too few to rank."""
    from vlp.curation.composed_data import build_only_source

    data = build_only_source(overrides, "vlp export --gate measures")
    samples = [sample for sample in data.split("test") or data.split("val") if sample.captions]
    if len(samples) < 2 * TOP:
        raise UserError(
            f"--gate: {data.name} has {len(samples)} test images with captions, too few to rank: give another data set"
        )
    return samples[:IMAGES]


@torch.no_grad()
def compare_recall(
    samples: Sequence[Sample],
    *,
    graphs: dict[str, PlannedGraph],
    runs: dict[str, Run],
    load_pixels: Callable[[list[Any]], Tensor],
    load_artifact_pixels: Callable[[list[Any]], Tensor],
    tokenize: Callable[[list[str]], tuple[Tensor, Tensor]],
) -> RecallComparison:
    """load_pixels, load_artifact_pixels: from image files, as the model and as the artifact read them."""
    captions = [caption for sample in samples for caption in sample.captions]
    owner = torch.tensor([row for row, sample in enumerate(samples) for _ in sample.captions])
    ids = torch.arange(len(samples))

    def embed(image: Any, text: Any, load: Any) -> tuple[Tensor, Tensor]:
        photos = [image({"pixels": load(part)}) for part in _parts([sample.image for sample in samples])]
        words = [text(dict(zip(("ids", "mask"), tokenize(part), strict=True))) for part in _parts(captions)]
        return torch.from_numpy(np.concatenate(photos)), torch.from_numpy(np.concatenate(words))

    def eager(name: str) -> Any:
        return lambda inputs: graphs[name].module(*inputs.values()).numpy()

    def served(name: str) -> Any:
        return lambda inputs: runs[name](inputs)[f"{name}_embeds"]

    found = [
        embed(eager("image"), eager("text"), load_pixels),
        embed(served("image"), served("text"), load_artifact_pixels),
    ]

    def recall(queries: Tensor, candidates: Tensor, query_ids: Tensor, candidate_ids: Tensor) -> float:
        return 100 * float(expected_hit(rank_candidates(queries, candidates, query_ids, candidate_ids), 1).mean())

    recalls = [(recall(photos, words, ids, owner), recall(words, photos, owner, ids)) for photos, words in found]
    best = [exact_cosines(words, photos).topk(TOP).indices for photos, words in found]
    shared = (best[0][:, :, None] == best[1][:, None, :]).any(2).double().mean()
    return RecallComparison(
        images=len(samples),
        captions=len(captions),
        model=recalls[0],
        artifact=recalls[1],
        overlap=float(shared),
    )


def _parts(inputs: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(inputs), BATCH):
        yield [Path(each) if isinstance(each, Path) else each for each in inputs[start : start + BATCH]]
