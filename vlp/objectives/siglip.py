"""Sigmoid loss over all pairs of the batch of all ranks: every pair is a binary classification.

Zhai et al., arXiv:2303.15343, equation 1: L = -1/|B| Σ_i Σ_j log σ(z_ij (t x_i·y_j + b)), z = 1 for a caption of the
image and -1 otherwise; |B| counts images. Several captions of one image in the batch are all positives.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vlp.distributed import gather, mean_over_ranks
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.base import Objective, paired_similarity
from vlp.structures import Batch, Features, Loss, Text, Tokens, require
from vlp.system.errors import UserError


class SigLIP(Objective):
    """Needs a projection with a bias (`model.projection.logit_bias=-10` and temperature 0.1 in the paper)."""

    requires = ("image", "caption")
    needs = ("vision", "text", "projection")
    uses = ("image_embed", "text_embed")
    in_batch = True

    def forward(self, model: VisionLanguageModel, batch: Batch, features: Features) -> Loss:
        image, text = require(features.image_embed), require(features.text_embed)
        projection = model.part("projection")
        if projection.logit_bias is None:
            raise UserError("siglip needs a learned bias: set model.projection.logit_bias=-10")
        logits = model.similarity(image, gather(text))
        same = batch.id[:, None] == gather(batch.id[require(features.owner)])[None, :]
        total = -F.logsigmoid(logits * same.to(logits.dtype).mul(2).sub(1)).sum()
        logs = {"logit_scale": projection.scale(), "logit_bias": projection.logit_bias.detach()}
        return Loss(value=mean_over_ranks(total, len(batch)), logs=logs)

    def score(self, model: VisionLanguageModel, image: Tokens, text: Text) -> Float[Tensor, " b"]:
        """The logit of the cosine of image i and text i."""
        return paired_similarity(model, image, text)
