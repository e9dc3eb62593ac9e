"""BERT's prediction of a token from a state (Devlin et al., arXiv:1810.04805): a linear map, activation and norm, then a
logit for every token of the vocabulary. Masked language modelling and decoders share it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import make_activation
from vlp.models.post_norm import init_bert_weights


class LanguageHead(nn.Module):
    """tied: the last map is the embedding's transpose, an argument of each call (BERT, ALBEF, BLIP);
    else the head has its own (ViLT)."""

    def __init__(
        self,
        *,
        width: int,
        vocabulary_size: int,
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.activation = make_activation(activation)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.decoder = None if tied else nn.Linear(width, vocabulary_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        init_bert_weights(self, width)

    def forward(
        self, states: Float[Tensor, "*b d"], embedding: Float[Tensor, "v d"] | None = None
    ) -> Float[Tensor, "*b v"]:
        x = self.norm(self.activation(self.transform(states)))
        if self.decoder is not None:
            embedding = self.decoder.weight
        assert embedding is not None, "a tied head needs the embedding"
        return F.linear(x, embedding, self.bias)
