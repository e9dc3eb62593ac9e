"""Compositional choice (SugarCrepe, Hsieh et al. 2023, arXiv 2306.14610): does the true text beat its hard negatives?

The share of samples whose true text has the highest cosine with the image among its choices; n texts that tie for the
highest cosine share the credit, so a model that gives all of them one score has the accuracy of chance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import count_ties, expected_hit, to_exact_integers
from vlp.models.equal_inputs import EmbeddingStore, content_keys, first_equal_positions
from vlp.models.gallery import scoring_device
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, require
from vlp.system.errors import UserError
from vlp.tasks.base import Task


class Compositionality(Task):
    requires = ("image", "choices", "label")
    needs = ("vision", "text", "projection")
    uses = ("image_embed",)

    def reset(self) -> None:
        self._images, self._texts = EmbeddingStore(), EmbeddingStore()
        self._counts: list[Tensor] = []  # of the choices of each sample
        self._label: list[Tensor] = []  # -1 where unknown

    @torch.no_grad()
    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        if features.image_embed is None or batch.choices is None or batch.label is None:
            raise UserError("compositionality needs image_embed in the features, and choices and label in the batch")
        real = batch.choices.mask.any(-1)
        known, positions = batch.label >= 0, torch.arange(real.shape[1], device=real.device)
        labelled = positions == batch.label[:, None]
        if bool((labelled & ~real)[known].any()) or bool((batch.label >= real.shape[1]).any()):
            raise UserError("a sample's label is beyond its last choice: correct its row in the annotations")
        texts = batch.choices.real_rows()[0]
        self._images.add(features.image_embed, require(batch.image))
        self._texts.add(model.embed_text(model.encode_text(texts)), texts)
        self._counts.append(real.sum(1).cpu())
        self._label.append(batch.label.cpu())

    def left_out(self) -> int:
        return sum(int((label < 0).sum()) for label in self._label)

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        device = scoring_device(model)
        empty = torch.zeros(0, dtype=torch.int64)
        counts, label = (
            distributed.gather(torch.cat([empty, *parts]).to(device)).cpu() for parts in (self._counts, self._label)
        )
        images, texts = self._images.gather_embeddings(device), self._texts.gather_embeddings(device)
        real = torch.arange(int(counts.max()) if len(counts) else 0) < counts[:, None]
        known = label >= 0
        if not bool(known.any()):
            raise UserError("compositionality: no sample has a known label; leave the task out of task=[…]")
        scores = choice_scores(images, texts, real.to(device)).cpu()[known]
        ties = count_ties(scores, F.one_hot(label[known], scores.shape[1]).bool())
        return {
            "accuracy": 100 * float(expected_hit(ties, 1).mean()),
            "chance": 100 * float((1 / counts[known].double()).mean()),
            "images": float(len(ties)),
        }

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """Each choice's cosine with the image, and the index of the highest."""
        if batch.image is None or batch.choices is None:
            raise UserError("compositionality needs batches with image and choices")
        texts, real = batch.choices.real_rows()[0], batch.choices.mask.any(-1)
        text_embed = model.embed_text(model.encode_text(texts))[first_equal_positions(content_keys(texts))]
        scores = choice_scores(model.embed_image(model.encode_image(batch.image)), text_embed, real)
        return [
            {"sample": sample, "scores": row[is_real].tolist(), "choice": int(row.argmax())}
            for sample, row, is_real in zip(batch.sample.tolist(), scores, real, strict=True)
        ]


def choice_scores(
    image_embed: Float[Tensor, "b e"], text_embed: Float[Tensor, "r e"], real: Bool[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """Cosines of each image with its own choices, in float64; −∞ where `real` is false.

    text_embed: of the real choices, ordered by image. All embeddings have unit length.
    """
    image, text = to_exact_integers(image_embed, text_embed)
    scores = torch.full(real.shape, -math.inf, dtype=torch.float64, device=text.device)
    scores[real] = reduce(image[real.nonzero()[:, 0]] * text, "r e -> r", "sum") * 2.0**-52
    return scores
