"""Fine-grained contrast: InfoNCE as in `itc`, over the fusion's own score of every pair of the batch.

FILIP, Yao et al., arXiv:2111.07783, equations 1 and 5. It wants a fusion that scores all pairs at once (model/fusion=late),
and its score is the second stage of retrieval (`tasks.retrieval.head=filip`). There the original contrasts with its own
rank's batch; here with that of all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.distributed import gather, joint_mean
from vlp.models.tokens import fetch_tokens
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.objectives.itc import info_nce
from vlp.structures import Batch, Features, Loss, Memory, Tokens
from vlp.system.errors import UserError


class FILIP(Objective):
    """Contrast of each image with all texts and of each text with all images; the mean of both directions."""

    requires = ("image", "caption")
    needs = ("vision", "text", "fusion")
    uses = ("text", "memory")
    in_batch = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        if not hasattr(model.part("fusion"), "all_pairs"):
            raise UserError(
                "objectives.filip contrasts all pairs by a fusion that scores them at once: model/fusion=late"
            )

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        text, image, owner = features.text, features.memory, features.owner
        assert text is not None
        assert isinstance(image, Tokens)
        assert owner is not None
        text_id, fusion = batch.id[owner], model.part("fusion")
        every_id = {"image": gather(batch.id), "text": gather(text_id)}
        images, texts = _of_all(image, len(every_id["image"])), _of_all(text, len(every_id["text"]))
        to_image = fusion.all_pairs(text, images)
        to_text = to_image.T if images is image else fusion.all_pairs(texts, image).T
        by_image = info_nce(to_text, batch.id[:, None] == every_id["text"][None, :])
        by_text = info_nce(to_image, text_id[:, None] == every_id["image"][None, :])
        value = (joint_mean(by_image.sum(), len(by_image)) + joint_mean(by_text.sum(), len(by_text))) / 2
        return Loss(value=value, logs={"logit_scale": fusion.scale(), "sharpness": fusion.sharpness()})

    def score(self, model: VisionLanguageModel, text: Tokens, memory: Memory | Tokens) -> Float[Tensor, " r"]:
        """Of row i of the texts with row i of the images, or with the one image that there is; higher fits better."""
        return model.part("fusion").score(text, memory)


def _of_all(tokens: Tokens, count: int) -> Tokens:
    """Every rank's rows."""
    if count == len(tokens.states):
        return tokens
    return fetch_tokens(tokens, torch.arange(count, device=tokens.states.device))
