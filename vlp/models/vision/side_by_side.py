"""Several towers on the same image, their pooled features joined end to end; tokens are the first tower's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlp.structures import Image, Tokens


class SideBySide(nn.Module):
    """towers: at least one; all see the same raw pixels and normalise them by their own mean and deviation.

    image_size: theirs.  Each pooled feature is layer-normalised, so that none outweighs another.
    """

    def __init__(self, *, towers: Sequence[Any], image_size: int) -> None:
        super().__init__()
        if not towers:
            raise ValueError("model.vision.towers is empty: give at least one tower")
        wrong = [tower.image_size for tower in towers if tower.image_size != image_size]
        if wrong:
            raise ValueError(f"model.vision.image_size={image_size}, but a tower takes images of {wrong[0]} pixels")
        self.towers = nn.ModuleList(towers)
        self.norms = nn.ModuleList(nn.LayerNorm(tower.width) for tower in towers)
        self.width = sum(tower.width for tower in towers)
        self.image_size = image_size

    def forward(self, image: Image) -> Tokens:
        outputs: list[Tokens] = [tower(image) for tower in self.towers]
        pooled = [norm(tokens.pooled) for norm, tokens in zip(self.norms, outputs, strict=True)]  # type: ignore[operator]
        return Tokens(states=outputs[0].states, pooled=torch.cat(pooled, dim=-1), grid=outputs[0].grid)

    def architecture(self) -> dict[str, Any]:
        towers = [
            {"_target_": f"{type(tower).__module__}.{type(tower).__qualname__}"} | tower.architecture()  # type: ignore[operator]
            for tower in self.towers
        ]
        return {"towers": towers}
