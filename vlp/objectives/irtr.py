"""ViLT's fine-tuning for retrieval: each image's own text against texts of other images, one score for each pair.

Kim et al., arXiv:2102.03334, §4.2; dandelin/ViLT vilt/modules/objectives.py `compute_irtr`: cross-entropy over the own text
and 15 negatives. The original samples these from the entire data set, where a caption of the same image may be among them;
here they are texts of other images in the batch of all ranks, chosen by the text's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.distributed import gather
from vlp.models.features import image_memory_per_text
from vlp.models.precision import apply_head
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, classification_loss, position_within_image
from vlp.random import mix_rows, uniform
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError


class IRTR(Objective):
    """width: of the fusion's pooled state, to which the score is linear.  negatives: texts of other images for each text."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("text", "memory")
    in_batch = True

    def __init__(
        self,
        *,
        width: int,
        negatives: int = 15,
        weight: float | list[list[float]] = 1.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if negatives < 1:
            raise UserError(f"objectives.irtr.negatives={negatives}: give at least 1 negative text for each text")
        self.negatives = negatives
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def pair_score(
        self, model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens
    ) -> Float[Tensor, " r"]:
        """Logit of text i for image i; higher = better match."""
        return apply_head(self.head, model.fuse(text, memory).pooled)[:, 0]

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """The logit of text i for image i."""
        return self.pair_score(model, model.encode_text(text), model.project_memory(image))

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, memory, owner = require(features.text), features.memory, require(features.owner)
        assert memory is not None
        index, allowed = self._shuffle_negatives(batch, owner)
        count = min(self.negatives, index.shape[1])
        images = image_memory_per_text(memory, batch, owner)
        scores = [self.pair_score(model, text, images)]
        scores += [self.pair_score(model, fetch_tokens(text, index[:, column]), images) for column in range(count)]
        return self.loss(torch.stack(scores, dim=1), allowed[:, :count])

    def loss(self, scores: Float[Tensor, "r k"], allowed: Bool[Tensor, "r _"]) -> Loss:
        """scores: of the own text, then of negatives; those that are not `allowed` are ignored."""
        scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(~allowed, -torch.inf)], dim=1)
        return classification_loss(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))

    @torch.no_grad()
    def _shuffle_negatives(
        self, batch: Batch, owner: Int[Tensor, " r"]
    ) -> tuple[Int[Tensor, "r m"], Bool[Tensor, "r m"]]:
        """For each text the indices of all ranks' texts, shuffled, those of other images first; and which those are."""
        image_id = batch.id[owner]
        negative = image_id[:, None] != gather(image_id)[None, :]
        seeds = mix_rows(batch.seed[owner], 3, position_within_image(owner))
        index = uniform(seeds, negative.shape[1]).masked_fill(~negative, 2.0).argsort(dim=1)
        return index, negative.gather(1, index)
