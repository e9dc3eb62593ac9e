"""Embeddings of the joint space cut to their first numbers."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def cut(embed: Float[Tensor, "n e"], dim: int | None) -> Float[Tensor, "n d"]:
    """The first `dim` numbers of each, of unit length again: cosines of vectors that are only cut are no cosines.
    dim: None = as they are."""
    return embed if dim is None else F.normalize(embed[:, :dim], dim=-1)
