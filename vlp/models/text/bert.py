"""BERT's text encoder, with equal numbers (Devlin et al., arXiv:1810.04805; transformers' BertModel without pooler).

ALBEF's text tower is its first six layers; BLIP's has no token types. Captions are packed: layers work on real tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.layers import Dropout, Layout, num_heads
from vlp.models.post_norm import build_post_norm_blocks, init_bert_weights
from vlp.models.tokens import check_pool, check_text_length, masked_mean
from vlp.structures import CrossAttentionCache, Text, Tokens


class BertText(nn.Module):
    """token_types: rows of the table of which row 0 is added to every token; 0 = none (BLIP).
    pool: 'class' = the first token, 'mean' = the mean over real tokens.  heads: None = width / 64.
    key_value_heads: that the heads share, a divisor of their number; None = each has its own.
    memory_width: of the image states that each layer can attend to, for a fusion by these same layers (BLIP); None = no
    cross-attention.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        context_length: int = 512,
        width: int = 768,
        layers: int = 12,
        heads: int | None = None,
        key_value_heads: int | None = None,
        hidden_width: int | None = None,
        activation: str = "gelu",
        token_types: int = 2,
        dropout: float = 0.1,
        norm_eps: float = 1e-12,
        pool: str = "class",
        memory_width: int | None = None,
    ) -> None:
        super().__init__()
        check_pool(pool, ("class", "mean"))
        self.width, self.context_length, self.vocabulary_size, self.pool = width, context_length, vocabulary_size, pool
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(context_length, width)
        self.token_types = nn.Embedding(token_types, width) if token_types else None
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = Dropout(dropout)
        self.blocks = build_post_norm_blocks(
            layers=layers,
            width=width,
            heads=num_heads(width, heads, "text_heads") if layers else 0,  # ViLT's embedder has no layer
            key_value_heads=key_value_heads,
            hidden_width=hidden_width,
            activation=activation,
            dropout=dropout,
            norm_eps=norm_eps,
            memory_width=memory_width,
        )
        init_bert_weights(self, width)

    def forward(self, text: Text, memory: CrossAttentionCache | None = None) -> Tokens:
        """States of padding are zero.  memory: None = text alone."""
        length = text.ids.shape[1]
        check_text_length(length, self.context_length)
        if text.mask.shape != text.ids.shape:  # that they are equal is also what an exported graph must know
            raise RuntimeError(f"a mask of {tuple(text.mask.shape)} for ids of {tuple(text.ids.shape)}")
        layout = Layout.from_mask(text.mask)
        positions = torch.arange(length, device=text.ids.device).expand(text.ids.shape).flatten()
        ids = text.ids.flatten()
        if layout.rows is not None:
            ids, positions = ids[layout.rows], positions[layout.rows]
        x = self._embed_tokens(ids, positions)
        mask = layout.attention_mask()
        memory_layers = [None] * len(self.blocks) if memory is None else memory.layers
        memory_mask = None if memory is None else memory.attention_mask()
        for block, layer in zip(self.blocks, memory_layers, strict=True):
            x = block(x, layout, mask, memory=layer, memory_mask=memory_mask)
        states = layout.unpack(x)
        pooled = states[:, 0] if self.pool == "class" else masked_mean(states, text.mask)
        return Tokens(states=states, pooled=pooled, mask=text.mask, ids=text.ids)

    def _embed_tokens(self, ids: Int[Tensor, " r"], positions: Int[Tensor, " r"]) -> Float[Tensor, "r d"]:
        x = self.embedding(ids) + F.embedding(positions, self.positions.weight)
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))

    def architecture(self) -> dict[str, int]:
        """What a config may have left to the tokenizer."""
        return {"vocabulary_size": self.vocabulary_size}


def replace_start_token(ids: Int[Tensor, "b t"], start_id: int | None) -> Int[Tensor, "b t"]:
    """The first token of each text becomes start_id, which tells BLIP's layers their task; None = unchanged."""
    if start_id is None:
        return ids
    ids = ids.clone()
    ids[:, 0] = start_id
    return ids
