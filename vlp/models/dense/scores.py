"""How well each place fits each class, as logits of sigmoids: class vectors, or text embeddings of names and phrases.

One head serves closed and open vocabulary; the only difference is what multiplies the embedding of a place (Minderer et
al., "Simple Open-Vocabulary Object Detection with Vision Transformers", arXiv:2205.06230, §3).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PRIOR = 0.01  # probability of a class at the start, so that the many empty places do not swamp the loss (arXiv:1708.02002, §4.1)
_EPS = 1e-6  # of the norms, as scenic and transformers have it


class ClassScores(nn.Module):
    """A vector and a bias for each class."""

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.constant_(self.linear.bias, _logit(PRIOR))

    def forward(self, places: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        return self.linear(places)


class TextScores(nn.Module):
    """(cosine + shift) · (ELU(scale) + 1), with a shift and a scale of each place (scenic projects/owl_vit/layers.py; transformers
    models/owlvit `OwlViTClassPredictionHead`).  embed_width: of the joint space.

    start: the factor of the cosine before training; then a place that has cosine 0 to a text has the probability 0.01."""

    def __init__(self, *, width: int, embed_width: int, start: float = 10.0) -> None:
        super().__init__()
        self.dense0 = nn.Linear(width, embed_width)
        self.logit_shift = nn.Linear(width, 1)
        self.logit_scale = nn.Linear(width, 1)
        for layer, bias in ((self.logit_shift, _logit(PRIOR) / start), (self.logit_scale, start - 1)):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.constant_(layer.bias, bias)

    def embed(self, places: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """Of unit length (but for 1e-6 in the norm)."""
        return _normalize(self.dense0(places))

    def forward(
        self, places: Float[Tensor, "b n d"], queries: Float[Tensor, "q e"] | Float[Tensor, "b q e"]
    ) -> Float[Tensor, "b n q"]:
        """queries: embeddings of texts, the same for all images or those of each."""
        cosine = self.embed(places) @ _normalize(queries).to(places.dtype).transpose(-1, -2)
        return (cosine + self.logit_shift(places)) * (F.elu(self.logit_scale(places)) + 1)


def _normalize(x: Tensor) -> Tensor:
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + _EPS)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
