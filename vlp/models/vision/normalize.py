"""Pixels → what a tower was trained on: uint8 RGB is scaled to [0, 1] and normalised; float pixels already are.

The buffers are not saved: mean and standard deviation belong to the architecture, not to the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.structures import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._settings = {"mean": [float(value) for value in mean], "std": [float(value) for value in std]}
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1), persistent=False)

    def forward(self, image: Image) -> Float[Tensor, "b c h w"]:
        pixels = image.pixels
        return pixels if pixels.is_floating_point() else (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std

    def architecture(self) -> dict[str, list[float]]:
        """As they were given: the buffers have them in single precision, which would look like another setting."""
        return {name: list(values) for name, values in self._settings.items()}
