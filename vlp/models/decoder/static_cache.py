"""Generation with a cache of one size, so that every step is the same graph: for torch.compile and for export.

The cache of `CausalDecoder.step` grows with each token, and a compiled step would be compiled again for each length. Here keys
and values lie in tensors of `capacity` tokens, a step writes at a position that is itself a tensor, and a mask hides what
is behind it. The step returns new tensors: the cache that it was given stays what it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache as kept
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.models.decoder.causal import CausalDecoder
from vlp.models.layers import Layout, StaticKeyValues
from vlp.models.precision import apply_head
from vlp.models.text.bert import replace_start_token
from vlp.structures import CrossAttentionCache, Record, Tokens
from vlp.system.errors import UserError

CACHES = ("growing", "static", "compiled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticCache(Record):
    """layers: keys and values of each layer's self-attention for n tokens at most.  length: how many there are."""

    layers: list[Float[Tensor, "r two g n k"]]
    length: int
    memory: CrossAttentionCache

    def select(self, index: Int[Tensor, " s"]) -> StaticCache:
        """Rows by index; each must stay with its own row of the memory."""
        return dataclasses.replace(self, layers=[layer[index] for layer in self.layers])

    @property
    def capacity(self) -> int:
        return self.layers[0].shape[3]


def static_step(
    decoder: CausalDecoder,
    ids: Int[Tensor, "r m"],
    position: Int[Tensor, " m"],
    layers: list[Float[Tensor, "r two g n k"]],
    memory: list[Float[Tensor, "b two g s k"]],
    memory_mask: Bool[Tensor, "b s"] | None,
) -> tuple[Float[Tensor, "r v"], list[Float[Tensor, "r two g n k"]]]:
    """Logits of what follows these tokens, which take the positions `position`, and the layers with them: from tensors to tensors,
    of sizes that do not depend on how many tokens there are."""
    past = [StaticKeyValues(layer, position) for layer in layers]
    seen = torch.arange(layers[0].shape[3], device=ids.device)[None, None, None] <= position[:, None]
    layout = Layout(ids.shape[0], ids.shape[1])
    x = decoder.embed_at(ids, decoder.positions(position))
    attended = CrossAttentionCache(layers=memory, mask=memory_mask)
    states = layout.unpack(decoder.run_layers(x, layout, attended, past, mask=seen, causal=False))[:, -1]
    return apply_head(decoder.head, states, decoder.embedding.weight), [layer.key_values for layer in past]


@kept
def _compiled_step() -> Callable[..., Any]:
    """One for the process: it has a graph for each decoder and each kind of batch that it has met."""
    return torch.compile(static_step, fullgraph=True)


class StaticSteps:
    """`empty_cache` and `step` for the searches of `vlp.models.generation`.

    capacity: tokens of a text at most, prompt included.  compiled: by torch.compile, but for the prompt.  Raises UserError for
    another decoder than a `CausalDecoder`.
    """

    def __init__(self, decoder: Any, *, capacity: int, compiled: bool = False) -> None:
        if not isinstance(decoder, CausalDecoder):
            raise UserError(
                f"{type(decoder).__name__} keeps no keys and values, so there is no static cache of them: set cache=growing"
            )
        self.decoder, self.compiled = decoder, compiled
        self.capacity = min(capacity, decoder.context_length)

    def empty_cache(self, memory: Tokens | CrossAttentionCache) -> StaticCache:
        """Of no tokens yet: one row for each of the memory's."""
        empty = self.decoder.empty_cache(memory)
        size = (*empty.layers[0].shape[:3], self.capacity, empty.layers[0].shape[4])
        return StaticCache(layers=[layer.new_zeros(size) for layer in empty.layers], length=0, memory=empty.memory)

    def step(self, ids: Int[Tensor, "r m"], cache: StaticCache) -> tuple[Float[Tensor, "r v"], StaticCache]:
        """Logits of what follows these tokens.  Raises UserError where they are more than the cache has room for."""
        length = cache.length + ids.shape[1]
        if length > cache.capacity:
            raise UserError(
                f"texts of {length} tokens, prompt included, for a cache of {cache.capacity}: lower max_length or "
                "tokenizer.context_length, or raise model.decoder.context_length"
            )
        ids = ids if cache.length else replace_start_token(ids, self.decoder.start_id)
        position = torch.arange(cache.length, length, device=ids.device)
        run = _compiled_step() if self.compiled and cache.length else static_step
        logits, layers = run(self.decoder, ids, position, cache.layers, cache.memory.layers, cache.memory.mask)
        return logits, dataclasses.replace(cache, layers=layers, length=length)


def generation_steps(decoder: Any, *, cache: str, capacity: int) -> Any:
    """What has the `empty_cache` and the `step` of a search.

    cache: "growing" = the decoder's own; "static" = of `capacity` tokens; "compiled" = static, with compiled steps.  Raises
    UserError for another word, or a decoder without keys and values.
    """
    if cache not in CACHES:
        raise UserError(f"cache={cache}: choose one of {', '.join(CACHES)}")
    return decoder if cache == "growing" else StaticSteps(decoder, capacity=capacity, compiled=cache == "compiled")
