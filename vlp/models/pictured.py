"""Source texts of which some or all go with a picture: the states that a decoder reads, and what it writes.

A text with a picture passes the fusion; one without passes it by, and the decoder attends to the states of the text tower alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlp.models.generation import GenerationRules, beam_search
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import CrossAttentionCache, Text, Tokens
from vlp.system.errors import UserError
from vlp.tokenizers.base import Tokenizer


def encode_source(
    model: VisionLanguageModel,
    text: Text,
    memory: CrossAttentionCache | Tokens | None,
    pictured: Bool[Tensor, " b"] | None = None,
) -> Tokens:
    """memory: `model.project_memory` of the pictures, one for each True of `pictured` (None = for each text); None = no text has
    one.  Raises UserError for texts without a picture where the decoder cannot read the text tower's states."""
    tokens = model.encode_text(text)
    if pictured is not None and bool(pictured.all()):
        pictured = None
    if memory is not None and pictured is None:
        return model.fuse(tokens, memory)
    width, expected = tokens.states.shape[-1], model.part("decoder").memory_width
    if width != expected:
        raise UserError(
            f"a text without a picture passes the fusion by, but its states have width {width} and the decoder reads {expected}: "
            "set model.text.width and model.fusion.width to one number"
        )
    if memory is None or pictured is None:
        return tokens
    return _join(tokens, model.fuse(tokens.select(pictured), memory), pictured)


def write_texts(
    model: VisionLanguageModel,
    tokenizer: Tokenizer,
    source: Tokens,
    *,
    beams: int,
    max_length: int,
    length_penalty: float = 1.0,
) -> list[str]:
    """By beam search, one for each row of the source."""
    decoder, rows = model.part("decoder"), len(source.states)
    rules = GenerationRules(end_id=tokenizer.end_id, pad_id=tokenizer.pad_id, max_length=max_length)
    start: Int[Tensor, "b 1"] = torch.full((rows, 1), tokenizer.start_id, device=source.states.device)
    cache = decoder.empty_cache(decoder.project_memory(source))
    ids = beam_search(decoder.step, cache, start, rules, beams=beams, length_penalty=length_penalty)
    return [tokenizer.decode(row) for row in ids.tolist()]


def _join(alone: Tokens, fused: Tokens, pictured: Bool[Tensor, " b"]) -> Tokens:
    """The rows of `fused` where `pictured`, else those of `alone`; both are padded to the longer one's states."""
    rows = pictured.nonzero()[:, 0]
    length = max(alone.states.shape[1], fused.states.shape[1])
    states = alone.states.new_zeros(len(pictured), length, alone.states.shape[2])
    states[:, : alone.states.shape[1]] = alone.states
    padded = torch.nn.functional.pad(fused.states, (0, 0, 0, length - fused.states.shape[1]))
    mask = torch.nn.functional.pad(_real(alone), (0, length - alone.states.shape[1]))
    fused_mask = torch.nn.functional.pad(_real(fused), (0, length - fused.states.shape[1]))
    return Tokens(
        states=states.index_copy(0, rows, padded.to(states.dtype)),
        pooled=alone.pooled.index_copy(0, rows, fused.pooled.to(alone.pooled.dtype)),
        mask=mask.index_copy(0, rows, fused_mask),
    )


def _real(tokens: Tokens) -> Bool[Tensor, "b n"]:
    if tokens.mask is not None:
        return tokens.mask
    return torch.ones(tokens.states.shape[:2], dtype=torch.bool, device=tokens.states.device)


def reach_parameters(model: VisionLanguageModel) -> Tensor:
    """0, with a gradient of 0 for every parameter that a batch without pictures does not reach: several processes need one of
    each."""
    parts = [part for part in (model.vision, model.fusion) if part is not None]
    parameters = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
    return torch.stack([0 * parameter.sum() for parameter in parameters]).sum() if parameters else torch.zeros(())
