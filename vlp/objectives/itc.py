"""Image-text contrast: symmetric InfoNCE over the batch of all ranks, with a learned temperature.

Radford et al., arXiv:2103.00020, figure 3. Where a batch holds several captions of one image, each is a positive of
its own and never a negative of another: for image i with positives P(i) and negatives N(i) (other image ids)

    L_i = -1/|P(i)| Σ_{j ∈ P(i)} log( e^{z_ij} / (e^{z_ij} + Σ_{k ∈ N(i)} e^{z_ik}) )

which is CLIP's loss when all images differ.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlp.distributed import gather, joint_mean
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective
from vlp.structures import Batch, Features, Loss


def info_nce(logits: Float[Tensor, "n m"], positive: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """L_i of each row; a row without any negative has loss 0, and so has a row without any positive."""
    negatives = logits.masked_fill(positive, -torch.inf).logsumexp(1)
    row, column = positive.nonzero(as_tuple=True)
    score = logits[row, column]
    losses = torch.logaddexp(negatives[row], score) - score
    return torch.zeros_like(negatives).index_add(0, row, losses / positive.sum(1)[row])


class ITC(Objective):
    """Contrast of each image with all texts and of each text with all images; the mean of both directions."""

    requires = ("image", "caption")
    needs = ("vision", "text", "projection")
    uses = ("image_embed", "text_embed")
    in_batch = True

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        assert features.image_embed is not None
        assert features.text_embed is not None
        assert features.owner is not None
        text_id = batch.id[features.owner]
        images, texts = gather(features.image_embed), gather(features.text_embed)
        image_to_text = info_nce(
            model.similarity(features.image_embed, texts), batch.id[:, None] == gather(text_id)[None, :]
        )
        text_to_image = info_nce(
            model.similarity(images, features.text_embed).T, text_id[:, None] == gather(batch.id)[None, :]
        )
        value = (
            joint_mean(image_to_text.sum(), len(image_to_text)) + joint_mean(text_to_image.sum(), len(text_to_image))
        ) / 2
        return Loss(value=value, logs={"logit_scale": model.part("projection").scale()})
