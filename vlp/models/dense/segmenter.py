"""Logits of the classes of pixels: a map of pixels times a vector of each class, or times texts.

Texts are mapped down to the few channels of the map, not the map up to the width of the joint space, which would cost a hundred
times as much; then the logit is a cosine with a learned factor (Li et al., "Language-driven Semantic Segmentation",
arXiv:2201.03546, §3, where the map has the joint space's width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.dense.pixels import LinearMap, PixelMap
from vlp.structures import Tokens
from vlp.system.errors import UserError

HEADS = ("linear", "pixels")


class Segmenter(nn.Module):
    """head: "linear", a linear function of the states and levels (the probe), or "pixels", a map that learns to upsample.
    channels, up: of the map, see `PixelMap`.  classes: how many have vectors; None = texts score.  embed_width: of the texts.
    """

    def __init__(
        self, *, head: str, states_width: int, channels: int, up: int, classes: int | None, embed_width: int = 0,
        levels: Sequence[str] = (), level_widths: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        if head not in HEADS:
            raise UserError(f"head={head} of a segmentation: choose {' or '.join(HEADS)}")
        inputs: dict[str, Any] = {"states_width": states_width, "levels": levels, "level_widths": level_widths}
        self.text = self.log_scale = self.classes = None
        if classes is None:
            self.text = nn.Linear(embed_width, channels)
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        if head == "linear":
            self.pixels: nn.Module = LinearMap(channels=channels if classes is None else classes, **inputs)
            return
        self.pixels = PixelMap(channels=channels, up=up, **inputs)
        if classes is not None:
            self.classes = nn.Conv2d(channels, classes, 1)

    def forward(self, tokens: Tokens, texts: Float[Tensor, "c e"] | None = None) -> Float[Tensor, "b c h w"]:
        pixels = self.pixels(tokens)
        if self.text is None or self.log_scale is None:
            return pixels if self.classes is None else self.classes(pixels)
        if texts is None:
            raise UserError("this segmentation scores pixels by texts, and none were given")
        names = F.normalize(self.text(texts.to(pixels.dtype)), dim=-1)
        return torch.einsum("bdhw,cd->bchw", F.normalize(pixels, dim=1), names) * self.log_scale.exp()
