"""The moving average of the model and the objectives' heads: p̄ ← m p̄ + (1 − m) p before each step's forward.

He et al., "Momentum Contrast", arXiv:1911.05722, equation 2; Li et al., arXiv:2107.07651, §3.3 (m = 0.995). As in
salesforce/ALBEF the copy is in the same mode as the model, so its dropout is active in training. Buffers follow at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from vlp.models.vlm import VisionLanguageModel
from vlp.system.errors import UserError


class MomentumCopy(nn.Module):
    """decay: m, in [0, 1]. Of an objective the submodules that have parameters are copied: its heads, not its queues."""

    def __init__(
        self, model: VisionLanguageModel, objectives: Mapping[str, nn.Module], *, decay: float = 0.995
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise UserError(f"momentum={decay}: the weight of the old average must lie between 0 and 1")
        self.decay = decay
        heads = nn.ModuleDict({name: _copied_heads(objective) for name, objective in objectives.items()})
        self._originals = [(model, heads)]  # in a list, so that they are no submodules
        self.model = deepcopy(model).requires_grad_(False)
        self.objectives = deepcopy(heads).requires_grad_(False)

    def _originals_and_copies(self) -> list[tuple[nn.Module, nn.Module]]:
        ((model, heads),) = self._originals
        return [(model, self.model), (heads, self.objectives)]

    def has_copy_of(self, module: nn.Module) -> bool:
        return any(part is module for original, _ in self._originals_and_copies() for part in original.modules())

    def copy_of(self, module: nn.Module) -> Any:
        """The momentum copy of the model, of any part of it or of an objective's head."""
        for original, copy in self._originals_and_copies():
            for name, part in original.named_modules():
                if part is module:
                    return copy.get_submodule(name)
        raise UserError(
            f"{type(module).__name__} is no part of the model and no head of an objective: it has no momentum copy"
        )

    def reset_to_originals(self) -> None:
        """The copy equals the originals again."""
        for original, copy in self._originals_and_copies():
            copy.load_state_dict(original.state_dict())

    @torch.no_grad()
    def step(self) -> None:
        for original, copy in self._originals_and_copies():
            for average, parameter in zip(copy.parameters(), original.parameters(), strict=True):
                if parameter.requires_grad:
                    average.mul_(self.decay).add_(parameter, alpha=1 - self.decay)
                else:  # the average of equal numbers is not quite equal
                    average.copy_(parameter)
            for copied_buffer, buffer in zip(copy.buffers(), original.buffers(), strict=True):
                copied_buffer.copy_(buffer)


def _copied_heads(objective: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(
        {name: part for name, part in objective.named_children() if any(True for _ in part.parameters())}
    )
