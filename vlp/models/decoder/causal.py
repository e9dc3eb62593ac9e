"""The decoder of ALBEF's and BLIP's captions and answers: BERT's layers with causal self-attention and cross-attention to
a memory, the image's states or those of a question fused with the image.

Li et al., arXiv:2107.07651, §3.4 (ALBEF), arXiv:2201.12086, §3.1 (BLIP); salesforce/BLIP models/med.py, BertLMHeadModel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vlp.models.language_head import LanguageHead
from vlp.models.layers import Dropout, Layout, PastKeyValues, num_heads, num_key_value_heads
from vlp.models.post_norm import build_post_norm_blocks, init_bert_weights
from vlp.models.precision import apply_head
from vlp.models.text.bert import BertText, replace_start_token
from vlp.structures import CrossAttentionCache, Record, Text, Tokens
from vlp.system.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderCache(Record):
    """State between the tokens of a text: self-attention's keys and values of each layer, and the memory's.

    Several rows may be continuations of one row of the memory, side by side; the memory is not repeated for them.
    """

    layers: list[Float[Tensor, "r two g n k"]]
    memory: CrossAttentionCache

    def select(self, index: Int[Tensor, " s"]) -> DecoderCache:
        """Rows by index; each must stay with its own row of the memory."""
        return DecoderCache(layers=[layer[index] for layer in self.layers], memory=self.memory)

    @property
    def length(self) -> int:
        return self.layers[0].shape[3]


class CausalDecoder(nn.Module):
    """memory_width: of the memory's states.  start_id: what the first token of every text becomes (BLIP's [DEC]); None
    = it stays.  token_types: as in `BertText`; 0 = none (BLIP).
    key_value_heads: that the heads of self-attention and cross-attention share, a divisor of their number, so that the cache is
    smaller by as much; None = each has its own.
    shared: all but the self-attention and its norm are the text tower's own (BLIP's pre-training).
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        memory_width: int,
        context_length: int = 512,
        width: int = 768,
        layers: int = 12,
        heads: int | None = None,
        key_value_heads: int | None = None,
        hidden_width: int | None = None,
        activation: str = "gelu",
        token_types: int = 0,
        dropout: float = 0.1,
        norm_eps: float = 1e-12,
        start_id: int | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.memory_width = memory_width
        self.width, self.context_length, self.vocabulary_size = width, context_length, vocabulary_size
        self.start_id, self.shared = start_id, shared
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(context_length, width)
        self.token_types = nn.Embedding(token_types, width) if token_types else None
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = Dropout(dropout)
        self.heads = num_heads(width, heads, "decoder.heads")
        self.key_value_heads = num_key_value_heads(self.heads, key_value_heads)
        self.blocks = build_post_norm_blocks(
            layers=layers,
            width=width,
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            hidden_width=hidden_width,
            activation=activation,
            dropout=dropout,
            norm_eps=norm_eps,
            memory_width=memory_width,
        )
        self.head = LanguageHead(
            width=width, vocabulary_size=vocabulary_size, activation=activation, norm_eps=norm_eps
        )  # tied to the embedding
        init_bert_weights(self, width)

    def share_text_layers(self, text: nn.Module | None) -> None:
        """Called by the model."""
        if not self.shared:
            return
        fits = isinstance(text, BertText) and len(text.blocks) == len(self.blocks)
        if not (fits and hasattr(text.blocks[0], "cross_attention")):  # type: ignore[union-attr, index]
            raise UserError(
                "decoder.shared needs a BertText of as many layers with cross-attention (text.memory_width)"
            )
        assert isinstance(text, BertText)
        theirs_heads = text.blocks[0].attention.key_value_heads  # type: ignore[union-attr]
        if theirs_heads != self.key_value_heads:
            raise UserError(
                f"decoder.shared: {theirs_heads} heads of keys and values in the text tower, {self.key_value_heads} in decoder: "
                "set model.text.key_value_heads and model.decoder.key_value_heads to the same number"
            )
        self.embedding, self.positions, self.norm = text.embedding, text.positions, text.norm
        for own, theirs in zip(self.blocks, text.blocks, strict=True):
            for name in ("cross_attention", "norm_cross", "mlp", "norm2"):
                setattr(own, name, getattr(theirs, name))

    def project_memory(self, memory: Tokens) -> CrossAttentionCache:
        expected, width = self.memory_width, memory.states.shape[-1]
        if width != expected:
            raise UserError(
                f"the decoder needs states of width {expected}, but these have {width}: choose a vision tower as wide as "
                f"model.fusion.width"
            )
        layers = [block.cross_attention.project_memory(memory.states) for block in self.blocks]  # type: ignore[union-attr, operator]
        return CrossAttentionCache(layers=layers, mask=memory.mask)

    def forward(self, text: Text, memory: Tokens | CrossAttentionCache) -> Float[Tensor, "b t v"]:
        """Logits of the token after each token; those of padding are zero.

        text: k times as many rows as the memory's, which are k texts in a row for each; padding comes last.
        """
        layout = Layout.from_mask(text.mask)
        states = self.run_layers(self._embed_tokens(text.ids, 0), layout, self._projected(memory))
        return layout.unpack(apply_head(self.head, states, self.embedding.weight))

    def logits_at(
        self, text: Text, memory: Tokens | CrossAttentionCache, positions: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "n v"]:
        """Those rows of `forward`'s logits alone, in their order: of a large vocabulary, those of padding are most of the time and
        memory of a step.  positions: of real tokens."""
        layout = Layout.from_mask(text.mask)
        states = self.run_layers(self._embed_tokens(text.ids, 0), layout, self._projected(memory))
        kept = positions.flatten() if layout.rows is None else positions.flatten()[layout.rows]
        return apply_head(self.head, states[kept], self.embedding.weight)

    def empty_cache(self, memory: Tokens | CrossAttentionCache) -> DecoderCache:
        """Of no tokens yet: one row for each of the memory's."""
        projected = self._projected(memory)
        first = projected.layers[0]
        empty = first.new_zeros(first.shape[0], 2, self.key_value_heads, 0, self.width // self.heads)
        return DecoderCache(layers=[empty for _ in self.blocks], memory=projected)

    def _projected(self, memory: Tokens | CrossAttentionCache) -> CrossAttentionCache:
        return memory if isinstance(memory, CrossAttentionCache) else self.project_memory(memory)

    def step(self, ids: Int[Tensor, "r n"], cache: DecoderCache) -> tuple[Float[Tensor, "r v"], DecoderCache]:
        """Logits of what follows these tokens: the first ones together, all later ones one by one."""
        if cache.length and ids.shape[1] != 1:
            raise UserError(f"{ids.shape[1]} tokens at once after {cache.length}: only the first step takes several")
        past = [PastKeyValues(layer) for layer in cache.layers]
        layout = Layout(ids.shape[0], ids.shape[1])
        x = self._embed_tokens(ids, cache.length)
        # a single token after others attends to all of them
        states = layout.unpack(self.run_layers(x, layout, cache.memory, past, causal=not cache.length))[:, -1]
        extended = dataclasses.replace(cache, layers=[layer.key_values for layer in past])
        return apply_head(self.head, states, self.embedding.weight), extended

    def run_layers(
        self,
        embedded: Float[Tensor, "b t d"],
        layout: Layout,
        memory: CrossAttentionCache,
        past: Sequence[PastKeyValues] | None = None,
        *,
        mask: Bool[Tensor, "1 1 t n"] | None = None,
        causal: bool = True,
    ) -> Float[Tensor, "r d"]:
        """mask: which tokens of `past`, these included, each of these attends to; None = all, or where `causal` the ones before."""
        x = layout.pack(embedded)
        size, images = layout.batch * layout.length, memory.layers[0].shape[0]
        if layout.batch % images:
            raise UserError(f"{layout.batch} texts are no multiple of the memory's {images} rows")
        cross_layout = Layout(images, size // images, layout.rows)
        memory_mask = memory.attention_mask()
        for index, (block, layer) in enumerate(zip(self.blocks, memory.layers, strict=True)):
            x = block(
                x,
                layout,
                mask,
                causal=causal,
                memory=layer,
                memory_mask=memory_mask,
                memory_layout=cross_layout,
                past=None if past is None else past[index],
            )
        return x

    def _embed_tokens(self, ids: Int[Tensor, "b t"], past_length: int) -> Float[Tensor, "b t d"]:
        length = past_length + ids.shape[1]
        if length > self.context_length:
            raise UserError(
                f"texts of {length} tokens, prompt included, for a decoder of {self.context_length}: lower max_length or "
                "tokenizer.context_length, or raise model.decoder.context_length"
            )
        ids = ids if past_length else replace_start_token(ids, self.start_id)
        return self.embed_at(ids, self.positions.weight[past_length:length])

    def embed_at(self, ids: Int[Tensor, "b t"], positions: Float[Tensor, "t d"]) -> Float[Tensor, "b t d"]:
        """positions: the embedding of each token's position."""
        x = self.embedding(ids) + positions
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))
