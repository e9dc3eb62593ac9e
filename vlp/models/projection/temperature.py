"""The learned temperature of a contrastive space, stored as the original stores it, and SigLIP's bias.

CLIP: Radford et al., arXiv:2103.00020, §2.5: logits are multiplied by exp(logit_scale), never by more than 100.
SigLIP: Zhai et al., arXiv:2303.15343, §3.2: a bias of -10 and a scale of 10 at the start.
ALBEF: Li et al., arXiv:2107.07651; salesforce/ALBEF models/model_pretrain.py: logits are divided by a temperature in
[0.001, 0.5]. Turning one form into the other loses bits in half of all values.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.system.errors import UserError

MAX_SCALE = 100.0
DIVISOR_RANGE = (0.001, 0.5)


class Temperature(nn.Module):
    """logits = exp(logit_scale) · ⟨image, text⟩ + logit_bias, or with `divisor` ⟨image, text⟩ / temperature + logit_bias.

    temperature: the starting value, for example 0.07.  bias: the starting value of logit_bias; None = no such parameter.
    """

    def __init__(self, *, temperature: float = 0.07, bias: float | None = None, divisor: bool = False) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be > 0, got {temperature}")
        self.divisor = divisor
        if divisor:
            self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        else:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def logits(self, image_embed: Float[Tensor, "n e"], text_embed: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        with torch.autocast(image_embed.device.type, enabled=False):  # in bf16 a scale of 100 leaves two digits
            if image_embed.dtype in (torch.bfloat16, torch.float16):
                image_embed, text_embed = image_embed.float(), text_embed.float()
            cosine = image_embed @ text_embed.T.to(image_embed.dtype)
            logits = cosine / self.temperature if self.divisor else self.logit_scale.exp() * cosine
        return logits if self.logit_bias is None else logits + self.logit_bias

    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by, without gradient."""
        return 1 / self.temperature.detach() if self.divisor else self.logit_scale.detach().exp()

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        if self.divisor:
            self.temperature.clamp_(*DIVISOR_RANGE)
        else:
            self.logit_scale.clamp_(max=math.log(MAX_SCALE))
