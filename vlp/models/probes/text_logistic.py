"""Logistic regression on joint embeddings whose penalty pulls the weights towards the classes' text embeddings: without a label
it is zero-shot classification, with many it is logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlp.models.probes import logistic
from vlp.models.probes.labelled import Labelled, LinearClassifier
from vlp.models.vlm import VisionLanguageModel


@dataclass(frozen=True, kw_only=True)
class TextLogistic:
    """text: the classes' embeddings of unit length, times the model's temperature."""

    text: Float[Tensor, "c e"]

    def default_settings(self, train: Labelled) -> tuple[float, ...]:
        return logistic.default_settings(train)

    def fit_path(self, train: Labelled, settings: tuple[float, ...]) -> list[LinearClassifier]:
        return logistic.fit_path(train, settings, self.text)

    def fit(self, train: Labelled, setting: float) -> LinearClassifier:
        return logistic.fit(train, setting, self.text)


def text_weights(model: VisionLanguageModel, embeds: Float[Tensor, "c e"]) -> Float[Tensor, "c e"]:
    """The embeddings times the slope of the model's logits over the cosine."""
    one = embeds[:1]
    with torch.no_grad():
        slope = model.similarity(one, one) - model.similarity(torch.zeros_like(one), one)
    return embeds * slope.reshape(()).to(embeds)
