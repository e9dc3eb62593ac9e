"""What can be asked of any `Tokens`: which are real, and rows of those of all ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from vlp.distributed import fetch, gather, world_size
from vlp.structures import Tokens


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
