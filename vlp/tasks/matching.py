"""Image-text matching on the negatives that are hardest for the contrastive space: is a text told from the most similar
image that it does not belong to, and an image from the most similar text?

For each text of the split the hardest image, and for each image the hardest text, is the most similar one of another image,
out of the whole split. Where the data know what else a caption is true of (generated scenes), such pairs are no negatives.
`accuracy` is balanced: the mean of the shares of right pairs and of hardest negatives that are recognised, in percent. A
model without a contrastive space gets negatives at random (`random_accuracy` is given in any case). `swapped_accuracy`:
the first of the choices (the right caption) against the others (false ones), where samples have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import exact_cosines
from vlp.models.features import caption_rows
from vlp.models.gallery import Gallery, scoring_device
from vlp.models.reranking import places, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import turns
from vlp.random import mix_rows
from vlp.structures import Batch, Features, Tokens
from vlp.system.errors import UserError
from vlp.tasks.base import Task


class Matching(Task):
    """Uses the head of `itm`.  contrastive: False for models without a contrastive space (ViLT)."""

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
        self._also: list[tuple[int, ...]] = []  # for each text
        self._choices = torch.zeros(2, 2, dtype=torch.int64)  # recognised and asked, of right and of false choices

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        owner = features.owner
        assert owner is not None
        assert features.image is not None
        self._gallery.add(batch, features)
        counts = owner.bincount(minlength=len(batch)).tolist()
        for sample, count in zip(batch.raw or (), counts, strict=bool(batch.raw)):
            self._also += (*sample.also_true, *((),) * count)[:count]
        if batch.choices is not None and batch.label is not None:
            self._update_choices(model, batch, features.image)

    @torch.no_grad()
    def _update_choices(self, model: VisionLanguageModel, batch: Batch, image: Tokens) -> None:
        assert batch.choices is not None
        assert batch.label is not None
        rows, owner = batch.choices.real_rows()
        place = torch.cat([torch.arange(count, device=owner.device) for count in owner.bincount().tolist()])
        right = place == batch.label[owner]
        logits = self.linked["itm"].logits(model, model.encode_text(rows), model.remember(image).select(owner))
        found = (logits.argmax(1) == 1) == right
        for kind, chosen in enumerate((right, ~right)):
            self._choices[kind] += torch.tensor([int(found[chosen].sum()), int(chosen.sum())])

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The probability that each of an image's own captions belongs to it."""
        if batch.image is None or batch.caption is None:
            raise UserError("matching needs batches with image and caption")
        rows, owner = caption_rows(batch)
        memory = model.remember(model.encode_image(batch.image)).select(owner)
        logits = self.linked["itm"].logits(model, model.encode_text(rows), memory)
        probability = logits.float().softmax(1)[:, 1]
        return [
            {"sample": sample, "probability": probability[owner == index].tolist()}
            for index, sample in enumerate(batch.sample.tolist())
        ]

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = scoring_device(model)
        image_id, text_id = (ids.cpu() for ids in self._gallery.ids(device))
        also: list[tuple[int, ...]] = distributed.gather_lists(self._also)
        own = (text_id[:, None] == image_id[None, :]).int().argmax(1)  # the image of each text
        allowed = text_id[:, None] != image_id[None, :]
        for row, ids in enumerate(also):
            if ids:
                allowed[row] &= ~torch.isin(image_id, torch.tensor(ids))
        # of ids, so it is the same whatever the order of ranks
        noise = mix_rows(text_id[:, None], turns(own)[:, None], image_id[None, :]).double()
        order = (image_id.argsort(stable=True), text_id.argsort(stable=True))
        negatives = {"random_": _hardest(noise, allowed, *order)}
        if self.contrastive:
            image, text = self._gallery.embeds(device)
            negatives["hard_"] = _hardest(exact_cosines(text, image).cpu(), allowed, *order)
        positive = torch.stack([own, torch.arange(len(own))], 1)
        wanted = torch.cat([positive, *negatives.values()]).unique(dim=0)
        logit = self._log_odds(model, wanted, device)

        def accepted(pairs: Int[Tensor, "p 2"]) -> float:
            found = logit[places(wanted, pairs, len(text_id))] > 0
            return 100 * float(found.double().mean())

        right = accepted(positive)
        figures = {"positive_accuracy": right}
        for name, pairs in negatives.items():
            refused = 100 - accepted(pairs)
            figures |= {f"{name}negative_accuracy": refused, f"{name}accuracy": (right + refused) / 2}
        figures["accuracy"] = figures["hard_accuracy" if self.contrastive else "random_accuracy"]
        choices = distributed.total(self._choices.to(device)).tolist()
        if all(asked for _, asked in choices):
            figures["swapped_accuracy"] = sum(100 * found / asked for found, asked in choices) / 2
        return figures

    def _log_odds(
        self, model: VisionLanguageModel, pairs: Int[Tensor, "p 2"], device: torch.device
    ) -> Float[Tensor, " p"]:
        """Of a match; each rank for its own images."""

        def score(model: VisionLanguageModel, text: Tokens, memory: Any) -> Tensor:
            logits = self.linked["itm"].logits(model, text, memory)
            return logits[:, 1] - logits[:, 0]

        image, text = self._gallery.packed(device)
        distinct, inverse = self._gallery.distinct(pairs)
        mine = self._gallery.share(distinct, device)
        found = score_pairs(model, score, image, text, mine, device=device)
        return distributed.gather(found.to(device)).cpu()[inverse]


def _hardest(
    score: Float[Tensor, "m n"],
    allowed: Bool[Tensor, "m n"],
    image_order: Int[Tensor, " n"],
    text_order: Int[Tensor, " m"],
) -> Int[Tensor, "p 2"]:
    """(image, text) for the best allowed image of each text, and the best allowed text of each image; of equal ones the
    first in the orders given, since that of their coming depends on the number of ranks."""
    score = score.masked_fill(~allowed, -torch.inf)
    texts, images = allowed.any(1).nonzero()[:, 0], allowed.any(0).nonzero()[:, 0]
    by_text = torch.stack([image_order[score[texts][:, image_order].argmax(1)], texts], 1)
    by_image = torch.stack([images, text_order[score[text_order][:, images].argmax(0)]], 1)
    return torch.cat([by_text, by_image])
