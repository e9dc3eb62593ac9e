"""What towers and fusions of any kind share: checks of options and inputs, means over states, and rows of other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp.distributed import fetch, gather, world_size
from vlp.structures import Tokens
from vlp.system.errors import UserError


def check_pool(pool: str, choices: Sequence[str]) -> None:
    if pool not in choices:
        raise UserError(f"unknown pool {pool!r}: choose {', '.join(choices[:-1])} or {choices[-1]}")


def check_text_length(length: int, context_length: int) -> None:
    if length > context_length:
        raise UserError(f"texts of {length} tokens for a tower of {context_length}: set tokenizer.context_length")


def raster_mean(states: Float[Tensor, "b n d"], grid: tuple[int, int] | None) -> Float[Tensor, "b d"]:
    """Over the last rows · columns states; without a grid over all."""
    return (states if grid is None else states[:, -grid[0] * grid[1] :]).mean(1)


def masked_mean(states: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b d"]:
    """Over real tokens; of a row without any it is zero."""
    if mask is None:
        return states.mean(1)
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def real_mask(tokens: Tokens) -> Bool[Tensor, "b n"]:
    """The mask, also where it is None because all are real."""
    return torch.ones_like(tokens.states[..., 0], dtype=torch.bool) if tokens.mask is None else tokens.mask


def fetch_tokens(tokens: Tokens, index: Int[Tensor, " n"]) -> Tokens:
    """Rows of all ranks' tokens, with gradient. On the ranks they may be of different lengths, with and without a mask;
    every rank must call it, since it is a collective.
    """
    if world_size() == 1:
        return tokens.select(index)
    length = int(gather(torch.tensor([tokens.states.shape[1]], device=index.device)).max())
    pad = length - tokens.states.shape[1]
    mask = fetch(F.pad(real_mask(tokens), (0, pad)).to(torch.uint8), index).bool()
    states = fetch(F.pad(tokens.states, (0, 0, 0, pad)), index)
    ids = None if tokens.ids is None else fetch(F.pad(tokens.ids, (0, pad)), index)
    ragged = bool(gather(torch.tensor([pad], device=index.device)).any())
    grid = None if ragged else tokens.grid
    return replace(tokens, states=states, pooled=fetch(tokens.pooled, index), mask=mask, ids=ids, grid=grid)
