"""Features of a batch, computed once for all objectives and tasks; with `chunk`, by the exact gradient cache.

The gradient cache (Gao et al., arXiv:2101.06983) trains a contrastive loss on a batch of thousands in the memory of
hundreds: each tower runs over chunks whose activations are dropped and computed again, one chunk at a time, in the
backward pass. Here it is non-reentrant activation checkpointing around each chunk: dropout is replayed, and the
gradient equals that of one big batch.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from vlp.models.momentum import MomentumCopy
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, CrossAttentionCache, Features, Image, Momentum, Text, Tokens
from vlp.system.errors import UserError

_REAL_ROWS: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of the captions of each batch as long as it is in use
CHUNKABLE = frozenset({"image_embed", "text_embed"})


def embed_in_chunks(
    embed: Callable[[Any], Float[Tensor, "_ e"]], inputs: Image | Text, length: int, chunk: int
) -> Float[Tensor, "b e"]:
    """`embed` over consecutive chunks of rows, keeping no activations between forward and backward."""
    parts = []
    for start in range(0, length, chunk):
        part = checkpoint(embed, inputs.select(slice(start, start + chunk)), use_reentrant=False)
        _return_freed_memory(part)
        if part.requires_grad:  # runs when the backward pass of the chunk before has ended
            part.register_hook(_return_freed_memory)
        parts.append(part)
    return torch.cat(parts)


@functools.cache
def _find_malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _return_freed_memory(tensor: Tensor) -> None:
    """glibc keeps what each chunk frees in a heap that fragments: a step of 16 chunks held 14 GB where 6 were in use."""
    trim = _find_malloc_trim() if tensor.device.type == "cpu" else None
    if trim is not None:
        trim(0)


def compute_features(
    model: VisionLanguageModel,
    batch: Batch,
    fields: Collection[str],
    *,
    chunk: int | None = None,
    step: int = 0,
    momentum: MomentumCopy | None = None,
    levels: Collection[str] = (),
) -> Features:
    """Fills those of `image`, `text`, `memory`, `image_embed`, `text_embed` that are in `fields` and that the batch can
    give, and of the momentum copy those whose names in `fields` begin with "momentum.".

    chunk: rows per chunk of the gradient cache; None = plain. The cache keeps no token states, so it serves
    objectives that use embeddings alone.  levels: modules of the vision tower whose maps `image.levels` holds.
    """
    momentum_features = {name.removeprefix("momentum.") for name in fields if name.startswith("momentum.")}
    fields = {name for name in fields if not name.startswith("momentum")}
    if chunk is not None and not CHUNKABLE.issuperset(fields | momentum_features):
        rest = ", ".join(sorted((fields | momentum_features) - CHUNKABLE))
        raise UserError(f"gradient_cache serves objectives that use embeddings alone, but one here uses {rest}")
    momentum_copy = None
    if momentum is not None:
        with torch.no_grad():
            momentum_copy = Momentum(
                copy_of=momentum.copy_of, **_encode_modalities(momentum.model, batch, momentum_features, chunk)
            )
    values = _encode_modalities(model, batch, fields, chunk, levels)
    if batch.caption is not None and not {"text", "text_embed"}.isdisjoint(fields | momentum_features):
        values["owner"] = flatten_captions(batch)[1]
    return Features(**values, step=step, momentum=momentum_copy)


def flatten_captions(batch: Batch) -> tuple[Text, Int[Tensor, " r"]]:
    """The captions of a batch as [r t], and the sample that each belongs to; the same record each time."""
    assert batch.caption is not None
    if batch.caption.ids.ndim == 3:
        if batch.caption not in _REAL_ROWS:
            _REAL_ROWS[batch.caption] = batch.caption.real_rows()
        return _REAL_ROWS[batch.caption]
    return batch.caption, torch.arange(len(batch), device=batch.id.device)


def image_memory_per_text(
    memory: CrossAttentionCache | Tokens, batch: Batch, owner: Int[Tensor, " r"]
) -> CrossAttentionCache | Tokens:
    """The memory of each text's own image."""
    one_each = batch.caption is not None and batch.caption.ids.ndim == 2
    return memory if one_each else memory.select(owner)


def _encode_modalities(
    model: VisionLanguageModel,
    batch: Batch,
    fields: Collection[str],
    chunk: int | None,
    levels: Collection[str] = (),
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if batch.image is not None:
        required = {*fields, "image"} if "memory" in fields else fields
        image, rows = batch.image, len(batch.image.pixels)
        encode = functools.partial(model.encode_image, levels=levels) if levels else model.encode_image
        values |= _encode_modality("image", image, rows, encode, model.embed_image, required, chunk)
        if "memory" in fields:
            values["memory"] = model.project_memory(values["image"])
    if batch.caption is not None and not {"text", "text_embed"}.isdisjoint(fields):
        caption = flatten_captions(batch)[0]
        rows = len(caption.ids)
        values |= _encode_modality("text", caption, rows, model.encode_text, model.embed_text, fields, chunk)
    return values


def _encode_modality(
    name: str,
    inputs: Image | Text,
    rows: int,
    encode: Callable[..., Tokens],
    project: Callable[[Tokens], Float[Tensor, "_ e"]],
    fields: Collection[str],
    chunk: int | None,
) -> dict[str, Any]:
    """One tower's tokens and embeddings, those of `<name>` and `<name>_embed` that are in `fields`."""
    if name in fields:
        tokens = encode(inputs)
        return {name: tokens} | ({f"{name}_embed": project(tokens)} if f"{name}_embed" in fields else {})
    if f"{name}_embed" not in fields:
        return {}

    def embed(part: Image | Text) -> Float[Tensor, "_ e"]:
        return project(encode(part, pooled_only=True))

    return {f"{name}_embed": embed(inputs) if chunk is None else embed_in_chunks(embed, inputs, rows, chunk)}
