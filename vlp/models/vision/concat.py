"""Several towers on the same image, their pooled features joined end to end, and their states cell by cell if asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlp.models.vlm import states_width, tower_config
from vlp.structures import Image, Tokens
from vlp.system.errors import UserError


class ConcatTower(nn.Module):
    """towers: at least one; all see the same raw pixels and normalise them by their own mean and deviation.

    image_size: theirs.  Each pooled feature is layer-normalised, so that none outweighs another.
    join_states: the states of equal grids are joined end to end; else the states are the first tower's.
    """

    def __init__(self, *, towers: Sequence[Any], image_size: int, join_states: bool = False) -> None:
        super().__init__()
        if not towers:
            raise UserError("model.vision.towers is empty: give at least one tower")
        wrong = [tower.image_size for tower in towers if tower.image_size != image_size]
        if wrong:
            raise UserError(f"model.vision.image_size={image_size}, but a tower takes images of {wrong[0]} pixels")
        self.towers = nn.ModuleList(towers)
        self.norms = nn.ModuleList(nn.LayerNorm(tower.width) for tower in towers)
        self.width = sum(tower.width for tower in towers)
        self.image_size, self.join_states = image_size, join_states
        resized = any(getattr(tower, "positions_size", None) is not None for tower in towers)
        self.positions_size = image_size if resized else None
        self.states_width = sum(map(states_width, towers)) if join_states else states_width(towers[0])

    def forward(self, image: Image) -> Tokens:
        outputs: list[Tokens] = [tower(image) for tower in self.towers]
        pooled = [norm(tokens.pooled) for norm, tokens in zip(self.norms, outputs, strict=True)]  # type: ignore[operator]
        states, grid = outputs[0].states, outputs[0].grid
        if self.join_states:
            if any(tokens.states.shape[1] != states.shape[1] or tokens.grid != grid for tokens in outputs):
                shapes = [tokens.grid or tokens.states.shape[1] for tokens in outputs]
                raise UserError(f"model.vision.join_states: the towers' states lie on different grids, {shapes}")
            states = torch.cat([tokens.states for tokens in outputs], dim=-1)
        return Tokens(states=states, pooled=torch.cat(pooled, dim=-1), grid=grid)

    def architecture(self) -> dict[str, Any]:
        towers = [tower_config(tower) for tower in self.towers]
        return {"towers": towers, "image_size": self.image_size, "join_states": self.join_states}
