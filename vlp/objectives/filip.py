"""Fine-grained contrast: InfoNCE as in `itc`, over the fusion's own score of every pair of the batch.

FILIP, Yao et al., arXiv:2111.07783, equations 1 and 5. It needs a fusion that scores all pairs at once (model/fusion=late),
and its score can be the second stage of retrieval (`tasks.retrieval.head=filip`). The original contrasts within the batch
of one rank; here the batch is that of all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.distributed import gather
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.itc import info_nce, mean_of_directions
from vlp.structures import Batch, CrossAttentionCache, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError


class FILIP(Objective):
    """Contrast of each image with all texts and of each text with all images; the mean of both directions."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("text", "memory")
    in_batch = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        if not hasattr(model.part("fusion"), "score_all_pairs"):
            raise UserError("objectives.filip needs a fusion that scores all pairs at once: set model/fusion=late")

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, image, owner = require(features.text), features.memory, require(features.owner)
        assert isinstance(image, Tokens)
        text_id, fusion = batch.id[owner], model.part("fusion")
        all_image_ids, all_text_ids = gather(batch.id), gather(text_id)
        images, texts = _gather_tokens(image, len(all_image_ids)), _gather_tokens(text, len(all_text_ids))
        text_to_images = fusion.score_all_pairs(text, images)
        image_to_texts = text_to_images.T if images is image else fusion.score_all_pairs(texts, image).T
        image_losses = info_nce(image_to_texts, batch.id[:, None] == all_text_ids[None, :])
        text_losses = info_nce(text_to_images, text_id[:, None] == all_image_ids[None, :])
        value = mean_of_directions(image_losses, text_losses)
        return Loss(value=value, logs={"logit_scale": fusion.scale(), "sharpness": fusion.sharpness()})

    def pair_score(
        self, model: VisionLanguageModel, text: Tokens, memory: CrossAttentionCache | Tokens
    ) -> Float[Tensor, " r"]:
        """Of text i with image i, or with the only image; higher = better match."""
        return model.part("fusion").score(text, memory)

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """The fusion's score of text i for image i."""
        return self.pair_score(model, model.encode_text(text), model.project_memory(image))


def _gather_tokens(tokens: Tokens, all_rows: int) -> Tokens:
    """The rows of all ranks, `all_rows` of them."""
    if all_rows == len(tokens.states):
        return tokens
    return fetch_tokens(tokens, torch.arange(all_rows, device=tokens.states.device))
