"""Compositional choice (SugarCrepe, Hsieh et al. 2023, arXiv 2306.14610): does the right text beat its hard negatives?

The share of samples whose right text has the highest cosine with the image among its choices; n texts that tie for the
highest place share the credit, so a model that cannot tell them apart scores chance.
"""

from __future__ import annotations

import math

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import count_ties, expected_hit
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Text
from vlp.system.errors import UserError
from vlp.tasks.base import Task


class Compositionality(Task):
    requires = ("image", "choices", "label")
    needs = ("vision", "text", "projection")
    uses = ("image_embed",)

    def reset(self) -> None:
        self._ties: list[Tensor] = []
        self._chance: list[Tensor] = []

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if features.image_embed is None or batch.choices is None or batch.label is None:
            raise UserError("compositionality needs image_embed in the features, and choices and label in the batch")
        scores, real = choice_scores(model, features.image_embed, batch.choices)
        known = batch.label >= 0
        right = torch.arange(scores.shape[1], device=scores.device) == batch.label[:, None]
        if bool((right & ~real)[known].any()) or bool((batch.label >= scores.shape[1]).any()):
            raise UserError("the label of a sample points past its choices; see its row in the data set's annotations")
        self._ties.append(count_ties(scores[known], right[known]).cpu())
        self._chance.append(1 / real[known].sum(1).double().cpu())

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        ties = distributed.gather(torch.cat([torch.zeros(0, 3, dtype=torch.int64), *self._ties]).to(device)).cpu()
        chance = distributed.gather(torch.cat([torch.zeros(0), *self._chance]).float().to(device)).cpu()
        if not len(ties):
            raise UserError("compositionality saw no sample with a known right choice")
        return {
            "accuracy": 100 * float(expected_hit(ties, 1).mean()),
            "chance": 100 * float(chance.double().mean()),
            "images": float(len(ties)),
        }

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """Each choice's cosine with the image, and the index of the highest."""
        if batch.image is None or batch.choices is None:
            raise UserError("compositionality needs batches with image and choices")
        scores, real = choice_scores(model, model.embed_image(model.encode_image(batch.image)), batch.choices)
        return [
            {"sample": sample, "scores": row[kept].tolist(), "choice": int(row.argmax())}
            for sample, row, kept in zip(batch.sample.tolist(), scores, real, strict=True)
        ]


def choice_scores(
    model: VisionLanguageModel, image_embed: Float[Tensor, "b e"], choices: Text
) -> tuple[Float[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Cosines of each image with its own choices, −∞ where there is none, and where there is one."""
    rows, owner = choices.real_rows()
    text_embed = model.embed_text(model.encode_text(rows))
    real = choices.mask.any(-1)
    scores = torch.full(real.shape, -math.inf, dtype=torch.float32, device=text_embed.device)
    scores[real] = reduce(image_embed[owner].float() * text_embed.float(), "r e -> r", "sum")
    return scores, real
