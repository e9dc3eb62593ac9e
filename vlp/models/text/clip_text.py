"""CLIP's text transformer, with equal numbers (Radford et al., arXiv:2103.00020, §2.4; openai/CLIP clip/model.py).

The final map into the joint space (`text_projection`) is the projection's. CLIP masks no padding: a causal tower's
feature does not depend on what follows the end token, so texts padded to the batch's longest and to
`context_length` give the same. A tower that is not causal (SigLIP's) sees its padding, so texts are always padded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlp.models.layers import Layout, build_pre_norm_blocks, num_heads
from vlp.models.tokens import check_text_length
from vlp.structures import Text, Tokens
from vlp.system.errors import UserError

POOLS = ("argmax", "eot", "end", "first", "last")


class ClipText(nn.Module):
    """pool: which position is the text's feature.
    'argmax': the highest id (OpenAI: there the end token has it)   'eot': the first `eot_id` (transformers)
    'end': the last real token by the mask, with any tokenizer       'first', 'last': of `context_length` positions
    key_value_heads: that the heads share, a divisor of their number; None = each has its own.
    class_token: CoCa's, which follows the padded text and is its feature. It attends to the tokens before the padding and, as
    open_clip shifts the mask by one token, to the first of the padding; the states pass no last norm.
    """

    prunes = True  # `pooled_only` saves work

    def __init__(
        self,
        *,
        vocabulary_size: int,
        context_length: int,
        width: int,
        layers: int,
        heads: int | None = None,
        key_value_heads: int | None = None,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        norm_eps: float = 1e-5,
        causal: bool = True,
        pool: str = "end",
        eot_id: int | None = None,
        pad_id: int = 0,
        class_token: bool = False,
    ) -> None:
        super().__init__()
        if pool not in POOLS or (pool == "eot") != (eot_id is not None):
            raise UserError(f"pool={pool!r} with eot_id={eot_id}: choose one of {', '.join(POOLS)}, and eot_id for eot")
        self.width, self.context_length, self.vocabulary_size = width, context_length, vocabulary_size
        self.causal, self.pool, self.eot_id, self.pad_id = causal, pool, eot_id, pad_id
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Parameter(0.01 * torch.randn(context_length + class_token, width))
        self.class_token = nn.Parameter(0.01 * torch.randn(width)) if class_token else None
        self.blocks = build_pre_norm_blocks(
            layers=layers,
            width=width,
            heads=num_heads(width, heads, "text_heads"),
            key_value_heads=key_value_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            norm_eps=norm_eps,
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, text: Text, pooled_only: bool = False) -> Tokens:
        """pooled_only: the one state returned is the pooled one; then captions are packed without padding."""
        ids, length = text.ids, text.ids.shape[1]
        check_text_length(length, self.context_length)
        if not self.causal or self.pool == "last" or self.class_token is not None:
            padding = ids.new_full((ids.shape[0], self.context_length), self.pad_id)
            ids = torch.cat([ids, padding], dim=1)[
                :, : self.context_length
            ]  # an exported graph has one rule for any length
        if self.class_token is not None:
            states = self.token_states(ids, self.class_token)
            pooled = self.norm(states[:, -1])
            return Tokens(states=_first_states(states, length), pooled=pooled, mask=text.mask, ids=text.ids)
        position = self._pooled_position(text, ids)
        # packing asks for the number of tokens, which a compiled graph cannot know
        if pooled_only and self.causal and not torch.compiler.is_compiling():
            pooled = self._pooled_unpadded(ids, position)
            return Tokens(states=pooled[:, None], pooled=pooled)
        states = self.norm(self.token_states(ids))
        pooled = states[torch.arange(ids.shape[0], device=ids.device), position]
        return Tokens(states=_first_states(states, length), pooled=pooled, mask=text.mask, ids=text.ids)

    def token_states(
        self, ids: Int[Tensor, "b n"], class_token: Float[Tensor, " d"] | None = None
    ) -> Float[Tensor, "b m d"]:
        """Before the last norm.  class_token: one that follows the text."""
        x, mask = self.embedding(ids), None
        if class_token is not None:
            x = torch.cat([x, class_token.expand(x.shape[0], 1, -1)], dim=1)
        if self.class_token is not None:
            real = F.pad(ids != self.pad_id, (1, 0), value=True)[:, : x.shape[1]]
            mask = real[:, None, None] & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=ids.device).tril()
        x = x + self.positions[: x.shape[1]]
        layout, x = Layout(*x.shape[:2]), x.flatten(0, 1)
        for block in self.blocks:
            x = block(x, layout, mask, causal=self.causal and mask is None)
        return layout.unpack(x)

    def _pooled_unpadded(self, ids: Int[Tensor, "b n"], position: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """The pooled states alone: what follows a causal text's pooled token cannot change it, so it is left out."""
        columns = torch.arange(ids.shape[1], device=ids.device)
        rows = (columns <= position[:, None]).flatten().nonzero()[:, 0]
        layout = Layout(len(ids), ids.shape[1], rows)
        # not positions[...]: the gradient of indexing is summed in the order of threads, another in each run
        x = self.embedding(ids.flatten()[rows]) + F.embedding(rows % ids.shape[1], self.positions)
        for block in self.blocks[:-1]:
            x = block(x, layout, causal=True)
        return self.norm(self.blocks[-1](x, layout, keep=(position + 1).cumsum(0) - 1))

    def architecture(self) -> dict[str, int]:
        """What a config may have left to the tokenizer."""
        return {"vocabulary_size": self.vocabulary_size}

    def _pooled_position(self, text: Text, ids: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        if self.pool == "argmax":
            return ids.argmax(1)
        if self.pool == "eot":
            assert self.eot_id is not None
            return torch.eq(ids, self.eot_id).int().argmax(1)
        if self.pool == "end":  # of a text without tokens, the first position
            positions = torch.arange(text.mask.shape[1], device=ids.device)
            return (positions * text.mask).amax(1)
        return torch.full_like(ids[:, 0], 0 if self.pool == "first" else ids.shape[1] - 1)


def _first_states(states: Float[Tensor, "b n d"], length: int) -> Float[Tensor, "b t d"]:
    """Without those of the padding to `context_length`."""
    if torch.compiler.is_compiling():  # a slice would fix in the graph whether there was any padding
        return states.index_select(1, torch.arange(length, device=states.device))
    return states[:, :length]
