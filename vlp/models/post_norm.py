"""The transformer block of BERT, ALBEF and BLIP: self-attention, cross-attention where there is a memory, and
a perceptron, each followed by dropout, the residual sum and a layer norm.

Devlin et al., arXiv:1810.04805; Vaswani et al., arXiv:1706.03762, §3.1. As in `layers`, a batch is a flat [rows, width]
tensor whose `Layout` says which rows belong to which sample.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlp.models.layers import (
    Attention,
    Dropout,
    Layout,
    Linear,
    Mlp,
    PastKeyValues,
    attend,
    num_key_value_heads,
)


class CrossAttention(nn.Module):
    """memory_width: of the states that give keys and values.  key_value_heads: as in `Attention`."""

    def __init__(
        self, *, width: int, memory_width: int, heads: int, dropout: float, key_value_heads: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.key_value_heads, self.dropout = heads, num_key_value_heads(heads, key_value_heads), dropout
        self.query = Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * self.key_value_heads * (width // heads))
        self.out = Linear(width, width)

    def project_memory(self, states: Float[Tensor, "b m e"]) -> Float[Tensor, "b two g m k"]:
        """Keys and values, which do not depend on the queries: computed once for every image."""
        return rearrange(self.key_value(states), "b m (two g d) -> b two g m d", two=2, g=self.key_value_heads)

    def forward(
        self,
        x: Float[Tensor, "r d"],
        layout: Layout,
        memory: Float[Tensor, "#b two g m k"],
        mask: Bool[Tensor, "#b 1 1 m"] | None,
    ) -> Float[Tensor, "r d"]:
        """memory: of each sample, or one for all of them: then their rows are one long query, and no key is copied."""
        shared = not torch.compiler.is_compiling() and len(memory) == 1  # a graph keeps one path for any batch
        q = self.query(x)[None] if shared else layout.unpack(self.query(x))
        q = rearrange(q, "b n (h d) -> b h n d", h=self.heads)
        dropout = self.dropout if self.training else 0.0
        k, v = memory.unbind(1)  # whose gradient is one copy; that of two slices is two tensors of zeros more
        x = attend(q, k, v, mask, dropout=dropout)
        x = rearrange(x, "b h n d -> b n (h d)")
        return self.out(x[0] if shared else layout.pack(x))


class PostNormBlock(nn.Module):
    """memory_width: None = no cross-attention.  dropout: after each part and on the attention's probabilities.
    key_value_heads: of both attentions, as in `Attention`.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden_width: int,
        activation: str = "gelu",
        memory_width: int | None = None,
        key_value_heads: int | None = None,
        dropout: float = 0.1,
        norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.attention = Attention(width=width, heads=heads, key_value_heads=key_value_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        if memory_width is not None:
            self.cross_attention = CrossAttention(
                width=width,
                memory_width=memory_width,
                heads=heads,
                key_value_heads=key_value_heads,
                dropout=dropout,
            )
            self.norm_cross = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width=width, hidden_width=hidden_width, activation=activation)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "r d"],
        layout: Layout,
        mask: Bool[Tensor, "#b 1 #n _"] | None = None,
        causal: bool = False,
        memory: Float[Tensor, "c two g m k"] | None = None,
        memory_mask: Bool[Tensor, "c 1 1 m"] | None = None,
        memory_layout: Layout | None = None,
        past: PastKeyValues | None = None,
    ) -> Float[Tensor, "r d"]:
        """memory: None = the cross-attention, if there is one, is skipped.  memory_layout: which rows attend to which row of
        the memory, None = as in `layout`.
        """
        x = self.norm1(x + self.dropout(self.attention(x, layout, mask, causal, past)))
        if memory is not None:
            attended = self.cross_attention(x, memory_layout or layout, memory, memory_mask)
            x = self.norm_cross(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.mlp(x)))


def build_post_norm_blocks(
    *,
    layers: int,
    width: int,
    heads: int,
    hidden_width: int | None,
    activation: str,
    dropout: float,
    norm_eps: float,
    memory_width: int | None = None,
    key_value_heads: int | None = None,
) -> nn.ModuleList:
    """hidden_width: None = 4 width."""
    return nn.ModuleList(
        PostNormBlock(
            width=width,
            heads=heads,
            hidden_width=hidden_width or 4 * width,
            activation=activation,
            memory_width=memory_width,
            key_value_heads=key_value_heads,
            dropout=dropout,
            norm_eps=norm_eps,
        )
        for _ in range(layers)
    )


def init_bert_weights(module: nn.Module, width: int) -> None:
    """Linear maps and embeddings of `module` and all below it: normal, of deviation 0.02 at BERT's width of 768. Narrower
    ones get more, as width^-0.5, or their signals would fade: at a width of 128 cross-attention would begin by adding 5 %.
    Biases are zero.
    """
    std = 0.02 * (768 / width) ** 0.5
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
