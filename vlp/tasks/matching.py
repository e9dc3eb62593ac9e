"""Image-text matching accuracy on true pairs and on hard negatives, which are the most similar pairs in the joint space.

For each text of the split the hardest negative is the most similar image that is not its own, for each image the most
similar text of another image. Pairs that the data set marks as true too (generated scenes) are not negatives. `accuracy` is
balanced: the mean of the share of true pairs that are accepted and the share of hard negatives that are rejected, in
percent. A model without a joint space gets random negatives (`random_accuracy` is always measured). `swapped_accuracy`: the
same with each sample's choices, the labelled one against the false ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import exact_cosines
from vlp.models.features import flatten_captions
from vlp.models.gallery import Gallery, scoring_device
from vlp.models.reranking import pair_positions, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import position_within_image
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.base import Task


class Matching(Task):
    """Uses the head of `itm`.  contrastive: False for models without a joint space (ViLT)."""

    requires = ("image", "caption")
    heads = ("itm",)
    predict_heads = ("itm",)

    def __init__(
        self, *, contrastive: bool = True, weight: float | list[list[float]] = 0.0, sources: Sequence[str] | None = None
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        self.contrastive = contrastive
        self.needs: tuple[str, ...] = ("vision", "text", "fusion") + (("projection",) if contrastive else ())
        self.uses: tuple[str, ...] = ("image", "text") + (("image_embed", "text_embed") if contrastive else ())

    def reset(self) -> None:
        self._gallery = Gallery(tokens=True)
        self._also_true: list[tuple[int, ...]] = []  # for each text, ids of other images that it is true of
        self._choice_counts = torch.zeros(
            2, 2, dtype=torch.int64
        )  # (correct, all) of the true and of the false choices

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        owner = require(features.owner)
        self._gallery.add(batch, features)
        counts = owner.bincount(minlength=len(batch)).tolist()
        for sample, count in zip(batch.raw or (), counts, strict=bool(batch.raw)):
            self._also_true += (*sample.also_true, *((),) * count)[:count]
        if batch.choices is not None and batch.label is not None:
            self._count_choices(model, batch, require(features.image))

    @torch.no_grad()
    def _count_choices(self, model: VisionLanguageModel, batch: Batch, image: Tokens) -> None:
        rows, owner = require(batch.choices).real_rows()
        is_true = position_within_image(owner) == require(batch.label)[owner]
        memory = model.project_memory(image).select(owner)
        logits = require_finite(self.linked["itm"].logits(model, model.encode_text(rows), memory), "logits of a match")
        correct = (logits.argmax(1) == 1) == is_true
        for kind, chosen in enumerate((is_true, ~is_true)):
            self._choice_counts[kind] += torch.tensor([int(correct[chosen].sum()), int(chosen.sum())])

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The probability that each of an image's own captions belongs to it."""
        if batch.image is None or batch.caption is None:
            raise UserError("matching needs batches with image and caption")
        rows, owner = flatten_captions(batch)
        memory = model.project_memory(model.encode_image(batch.image)).select(owner)
        logits = require_finite(self.linked["itm"].logits(model, model.encode_text(rows), memory), "logits of a match")
        probability = logits.softmax(1)[:, 1]
        return [
            {"sample": sample, "probability": probability[owner == index].tolist()}
            for index, sample in enumerate(batch.sample.tolist())
        ]

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        """Accuracies with negatives are undefined where no image or text is a negative of another (one image)."""
        device = scoring_device(model)
        image_id, text_id = (ids.cpu() for ids in self._gallery.gather_ids(device))
        owner = (text_id[:, None] == image_id[None, :]).int().argmax(1)
        allowed = text_id[:, None] != image_id[None, :]
        also_true: list[tuple[int, ...]] = distributed.gather_lists(self._also_true)
        for row, ids in enumerate(also_true):
            if ids:
                allowed[row] &= ~torch.isin(image_id, torch.tensor(ids))
        # a function of ids, so that it does not depend on the order of the ranks
        noise = mix_rows(text_id[:, None], position_within_image(owner)[:, None], image_id[None, :]).double()
        order = (image_id.argsort(stable=True), text_id.argsort(stable=True))
        negatives = {"random_": _hardest_pairs(noise, allowed, *order)}
        if self.contrastive:
            image, text = self._gallery.gather_embeddings(device)
            negatives["hard_"] = _hardest_pairs(exact_cosines(text, image).cpu(), allowed, *order)
        positive = torch.stack([owner, torch.arange(len(owner))], 1)
        scored = torch.cat([positive, *negatives.values()]).unique(dim=0)
        log_odds = self._log_odds(model, scored, device)

        def acceptance_rate(pairs: Int[Tensor, "p 2"]) -> float:
            return 100 * float((log_odds[pair_positions(scored, pairs, len(text_id))] > 0).double().mean())

        accepted = acceptance_rate(positive)
        figures: dict[str, float | None] = {"positive_accuracy": accepted}
        for name, pairs in negatives.items():
            rejected = 100 - acceptance_rate(pairs) if len(pairs) else None
            balanced = None if rejected is None else (accepted + rejected) / 2
            figures |= {f"{name}negative_accuracy": rejected, f"{name}accuracy": balanced}
        figures["accuracy"] = figures["hard_accuracy" if self.contrastive else "random_accuracy"]
        choices = distributed.sum_over_ranks(self._choice_counts.to(device)).tolist()
        if all(count for _, count in choices):
            figures["swapped_accuracy"] = sum(100 * correct / count for correct, count in choices) / 2
        return figures

    def _log_odds(
        self, model: VisionLanguageModel, pairs: Int[Tensor, "p 2"], device: torch.device
    ) -> Float[Tensor, " p"]:
        """Log-odds of a match for (image, text) pairs; each rank scores those of its own images."""

        def score(model: VisionLanguageModel, text: Tokens, memory: Any) -> Tensor:
            logits = self.linked["itm"].logits(model, text, memory)
            return logits[:, 1] - logits[:, 0]

        image, text = self._gallery.gather_tokens(device)
        distinct, inverse = self._gallery.unique_input_pairs(pairs)
        own_pairs = self._gallery.pairs_of_this_rank(distinct, device)
        with self.model_precision():
            log_odds = score_pairs(model, score, image, text, own_pairs, device=device)
        return distributed.gather(log_odds.to(device)).cpu()[inverse]


def _hardest_pairs(
    score: Float[Tensor, "m n"],
    allowed: Bool[Tensor, "m n"],
    image_order: Int[Tensor, " n"],
    text_order: Int[Tensor, " m"],
) -> Int[Tensor, "p 2"]:
    """(image, text) for the allowed image of the highest score of each text, and the allowed text of each image. Ties: the
    first in `image_order` or `text_order`, since the order of the rows depends on the number of ranks."""
    score = score.masked_fill(~allowed, -torch.inf)
    texts, images = allowed.any(1).nonzero()[:, 0], allowed.any(0).nonzero()[:, 0]
    by_text = torch.stack([image_order[score[texts][:, image_order].argmax(1)], texts], 1)
    by_image = torch.stack([images, text_order[score[text_order][:, images].argmax(0)]], 1)
    return torch.cat([by_text, by_image])
