"""The learned temperature of a contrastive space, stored as CLIP stores it, and SigLIP's bias.

CLIP: Radford et al., arXiv:2103.00020, §2.5: logits are multiplied by exp(logit_scale), never by more than 100.
SigLIP: Zhai et al., arXiv:2303.15343, §3.2: a bias of -10 and a scale of 10 at the start.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_SCALE = 100.0


class Temperature(nn.Module):
    """logits = exp(logit_scale) · ⟨image, text⟩ + logit_bias.

    temperature: the starting value of exp(-logit_scale), for example 0.07.
    bias: the starting value of logit_bias; None = no such parameter.
    """

    def __init__(self, *, temperature: float = 0.07, bias: float | None = None) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def logits(self, image_embed: Float[Tensor, "n e"], text_embed: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        logits = self.logit_scale.exp() * image_embed @ text_embed.T
        return logits if self.logit_bias is None else logits + self.logit_bias

    @torch.no_grad()
    def constrain(self) -> None:
        self.logit_scale.clamp_(max=math.log(MAX_SCALE))
