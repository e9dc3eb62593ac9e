"""CoCa's multimodal decoder: on the causal states of the text tower, blocks of self-attention in turn with blocks of
cross-attention to the image's pooled states (Yu et al., arXiv:2205.01917, §3.2; open_clip transformer.py,
MultimodalTransformer, and coca_model.py).
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.layers import Layout, Mlp, build_pre_norm_blocks, num_heads
from vlp.models.text.clip_text import ClipText
from vlp.structures import Record, Text, Tokens
from vlp.system.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocaCache(Record):
    """The tokens so far, which are computed again in each step, and the states of the images that they describe; several
    rows of tokens may belong to one image, side by side."""

    ids: Int[Tensor, "r n"]
    memory: Tokens

    def select(self, index: Int[Tensor, " s"]) -> CocaCache:
        """Rows by index; each must stay with its own image."""
        return CocaCache(ids=self.ids[index], memory=self.memory)

    @property
    def length(self) -> int:
        return self.ids.shape[1]


class CrossAttentionBlock(nn.Module):
    """Cross-attention and a perceptron, each with a norm before it and a residual sum after it."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: float, activation: str, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.norm_memory = nn.LayerNorm(width, eps=norm_eps)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width=width, hidden_width=round(mlp_ratio * width), activation=activation)

    def forward(self, x: Float[Tensor, "b n d"], memory: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        memory = self.norm_memory(memory)
        x = x + self.attention(self.norm1(x), memory, memory, need_weights=False)[0]
        return x + self.mlp(self.norm2(x).flatten(0, 1)).unflatten(0, x.shape[:2])


class CocaDecoder(nn.Module):
    """memory_width: of the image's states, which must be `width`.  The first of them is the contrastive one and is left out.
    The text tower must be a `ClipText` of the same width, whose states before its last norm are decoded.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        memory_width: int,
        context_length: int,
        width: int,
        layers: int,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if memory_width != width:
            raise UserError(f"CoCa's decoder of width {width} needs image states as wide, but they have {memory_width}")
        self.width, self.context_length, self.vocabulary_size = width, context_length, vocabulary_size
        heads = num_heads(width, heads, "decoder.heads")
        self.blocks = build_pre_norm_blocks(
            layers=layers, width=width, heads=heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps
        )
        self.cross_blocks = nn.ModuleList(
            CrossAttentionBlock(width=width, heads=heads, mlp_ratio=mlp_ratio, activation=activation, norm_eps=norm_eps)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.head = nn.Linear(width, vocabulary_size, bias=False)
        nn.init.normal_(self.head.weight, std=width**-0.5)
        self._text: list[ClipText] = []  # in a list: its parameters are the text tower's, not the decoder's

    def share_text_layers(self, text: nn.Module | None) -> None:
        """Called by the model."""
        if not isinstance(text, ClipText) or text.width != self.width:
            raise UserError(f"CoCa's decoder of width {self.width} needs a ClipText of that width: set model/text")
        self._text = [text]

    def project_memory(self, memory: Tokens) -> Tokens:
        """All but the contrastive state."""
        return Tokens(states=memory.states[:, 1:], pooled=memory.pooled)

    def forward(self, text: Text, memory: Tokens) -> Float[Tensor, "b t v"]:
        """Logits of the token after each token; those of padding are zero.

        text: k times as many rows as the memory's, which are k texts in a row for each; padding comes last.
        """
        logits = self._decode(text.ids, self.project_memory(memory))
        return logits * text.mask[..., None]

    def empty_cache(self, memory: Tokens) -> CocaCache:
        """Of no tokens yet: one row for each of the memory's."""
        ids = torch.zeros(memory.states.shape[0], 0, dtype=torch.long, device=memory.states.device)
        return CocaCache(ids=ids, memory=self.project_memory(memory))

    def step(self, ids: Int[Tensor, "r n"], cache: CocaCache) -> tuple[Float[Tensor, "r v"], CocaCache]:
        """Logits of what follows these tokens."""
        extended = CocaCache(ids=torch.cat([cache.ids, ids], dim=1), memory=cache.memory)
        return self._decode(extended.ids, cache.memory)[:, -1], extended

    def _decode(self, ids: Int[Tensor, "r n"], memory: Tokens) -> Float[Tensor, "r n v"]:
        if ids.shape[1] > self.context_length:
            raise UserError(
                f"texts of {ids.shape[1]} tokens, prompt included, for a decoder of {self.context_length}: lower max_length or "
                "tokenizer.context_length"
            )
        texts, images = ids.shape[0], memory.states.shape[0]
        if texts % images:
            raise UserError(f"{texts} texts are no multiple of the memory's {images} rows")
        states = memory.states.repeat_interleave(texts // images, dim=0)
        x, layout = self._text[0].token_states(ids), Layout(*ids.shape)
        for block, cross in zip(self.blocks, self.cross_blocks, strict=True):
            x = block(x.flatten(0, 1), layout, causal=True)
            x = cross(layout.unpack(x), states)
        return self.head(self.norm(x))
