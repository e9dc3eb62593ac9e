"""The decoder of ALBEF's and BLIP's captions and answers: BERT's layers with causal self-attention and cross-attention to
a memory, the image's states or those of a question fused with the image.

Li et al., arXiv:2107.07651, §3.4 (ALBEF), arXiv:2201.12086, §3.1 (BLIP); salesforce/BLIP models/med.py, BertLMHeadModel.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.language_head import LanguageHead
from vlp.models.layers import Dropout, Layout, PastKeyValues, num_heads
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

    layers: list[Float[Tensor, "r two h n k"]]
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
        self.blocks = build_post_norm_blocks(
            layers=layers,
            width=width,
            heads=self.heads,
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
        states = self._run_layers(text.ids, layout, self._projected(memory))
        return layout.unpack(apply_head(self.head, states, self.embedding.weight))

    def empty_cache(self, memory: Tokens | CrossAttentionCache) -> DecoderCache:
        """Of no tokens yet: one row for each of the memory's."""
        projected = self._projected(memory)
        first = projected.layers[0]
        empty = first.new_zeros(len(first), 2, self.heads, 0, self.width // self.heads)
        return DecoderCache(layers=[empty for _ in self.blocks], memory=projected)

    def _projected(self, memory: Tokens | CrossAttentionCache) -> CrossAttentionCache:
        return memory if isinstance(memory, CrossAttentionCache) else self.project_memory(memory)

    def step(self, ids: Int[Tensor, "r n"], cache: DecoderCache) -> tuple[Float[Tensor, "r v"], DecoderCache]:
        """Logits of what follows these tokens: the first ones together, all later ones one by one."""
        if cache.length and ids.shape[1] != 1:
            raise UserError(f"{ids.shape[1]} tokens at once after {cache.length}: only the first step takes several")
        past = [PastKeyValues(layer) for layer in cache.layers]
        layout = Layout(len(ids), ids.shape[1])
        states = layout.unpack(self._run_layers(ids, layout, cache.memory, past))[:, -1]
        extended = dataclasses.replace(cache, layers=[layer.key_values for layer in past])
        return apply_head(self.head, states, self.embedding.weight), extended

    def _run_layers(
        self,
        ids: Int[Tensor, "b t"],
        layout: Layout,
        memory: CrossAttentionCache,
        past: list[PastKeyValues] | None = None,
    ) -> Float[Tensor, "r d"]:
        past_length = past[0].key_values.shape[3] if past else 0
        x = layout.pack(self._embed_tokens(ids, past_length))
        size, images = layout.batch * layout.length, len(memory.layers[0])
        if layout.batch % images:
            raise UserError(f"{layout.batch} texts are no multiple of the memory's {images} rows")
        cross_layout = Layout(images, size // images, layout.rows)
        memory_mask = memory.attention_mask()
        for index, (block, layer) in enumerate(zip(self.blocks, memory.layers, strict=True)):
            x = block(
                x,
                layout,
                causal=not past_length,  # a single token after others attends to all of them
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
        x = self.embedding(ids) + self.positions.weight[past_length:length]
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return self.dropout(self.norm(x))
