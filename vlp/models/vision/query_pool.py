"""Pooling by learned queries that attend to all states of a tower.

SigLIP: one query, then a norm and a residual perceptron ("MAP head": Zhai et al., arXiv:2106.04560, §3.1, and Lee et al.,
arXiv:1810.00825, §3.2; google-research/big_vision big_vision/models/vit.py, MAPHead).
CoCa: several queries, with norms of queries and states and no perceptron; the first query is the contrastive one (Yu et al.,
arXiv:2205.01917, §3.2; open_clip transformer.py, AttentionalPooler).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.layers import Mlp


class QueryPool(nn.Module):
    """width: of the result; states_width: of what is attended to.  norm_inputs: CoCa's norms.  mlp_ratio: hidden width of the
    perceptron / width; None = no perceptron."""

    def __init__(
        self,
        *,
        width: int,
        states_width: int,
        queries: int,
        heads: int,
        norm_inputs: bool,
        mlp_ratio: float | None,
        activation: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(width**-0.5 * torch.randn(queries, width))
        self.norm_query = nn.LayerNorm(width, eps=norm_eps) if norm_inputs else nn.Identity()
        self.norm_states = nn.LayerNorm(states_width, eps=norm_eps) if norm_inputs else nn.Identity()
        self.attention = nn.MultiheadAttention(
            width, heads, kdim=states_width, vdim=states_width, batch_first=True
        )  # its own layout of weights, as both originals have it
        self.norm = None if mlp_ratio is None else nn.LayerNorm(width, eps=norm_eps)
        hidden_width = None if mlp_ratio is None else round(mlp_ratio * width)
        self.mlp = None if hidden_width is None else Mlp(width=width, hidden_width=hidden_width, activation=activation)

    def forward(
        self, states: Float[Tensor, "b n d"], bias: Float[Tensor, "b 1 1 n"] | None = None
    ) -> Float[Tensor, "b q e"]:
        """bias: added to the attention's scores."""
        query = self.norm_query(self.query).expand(states.shape[0], -1, -1)
        states = self.norm_states(states)
        mask = None
        if bias is not None:
            mask = bias.expand(-1, self.attention.num_heads, query.shape[1], -1).flatten(0, 1)
        x = self.attention(query, states, states, need_weights=False, attn_mask=mask)[0]
        if self.mlp is None or self.norm is None:
            return x
        return x + self.mlp(self.norm(x).flatten(0, 1)).unflatten(0, x.shape[:2])
