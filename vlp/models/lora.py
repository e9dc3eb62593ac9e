"""Low-rank adapters (Hu et al., arXiv:2106.09685): W + (α / r) B A with W frozen, A [r in] random and B [out r] zero at first. The
kernel of a convolution [out in h w] is a map from in·h·w numbers.

The sum takes the place of the weight itself (torch's parametrizations), so it works for every linear map and 2-D convolution of
native, timm, torchvision and transformers towers, however they read it. A run's checkpoint keeps W, A and B, from which it
resumes; whoever reads it as a model gets the sum (vlp/checkpoints/adapters.py).
"""

from __future__ import annotations

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vlp.system.errors import UserError


class LowRank(nn.Module):
    """scale: α / r."""

    def __init__(self, weight: Float[Tensor, "o i *space"], *, rank: int, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, weight[0].numel(), dtype=weight.dtype, device=weight.device))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = scale

    def forward(self, weight: Float[Tensor, "o i *space"]) -> Float[Tensor, "o i *space"]:
        return weight + (self.scale * self.b @ self.a).view_as(weight)


def add_adapters(model: nn.Module, *, rank: int, targets: str, alpha: float | int | None = None) -> list[str]:
    """Freezes every parameter of the model and gives the linear maps and convolutions whose names match the regular expression
    `targets` an adapter; returns their names.  alpha: None = rank, a scale of 1.  Raises UserError where nothing matches or a
    number makes no sense."""
    scale = _scale(rank, alpha)
    try:
        pattern = re.compile(targets)
    except (re.error, TypeError) as error:
        raise UserError(
            f"lora.targets={targets!r} is no regular expression of names of linear maps and convolutions: {error}"
        ) from error
    maps = {name: part for name, part in model.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d))}
    chosen = [name for name in maps if pattern.search(name)]
    if not chosen:
        listed = ", ".join(list(maps)[:10]) or "none"
        raise UserError(
            f"lora.targets={targets!r} matches no linear map or convolution of the model; among them are {listed}"
        )
    model.requires_grad_(False)
    for name in chosen:
        weight = maps[name].weight
        parametrize.register_parametrization(maps[name], "weight", LowRank(weight, rank=rank, scale=scale), unsafe=True)
    return chosen


def _scale(rank: int, alpha: float | int | None) -> float:
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"lora.rank={rank}: give a whole number above 0")
    if alpha is not None and not alpha > 0:
        raise UserError(f"lora.alpha={alpha}: give a number above 0, or null for the rank")
    return 1.0 if alpha is None else alpha / rank
