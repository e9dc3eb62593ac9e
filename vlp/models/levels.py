"""Inner maps of a vision tower by the names of its modules, whatever library the tower is of.

Hooks live for one call only, so that copies of the model, several objectives and threads do not meet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.structures import Image, height_and_width
from vlp.system.errors import UserError


def require_modules(tower: nn.Module, levels: Sequence[str]) -> None:
    """Raises UserError if no name is given or the tower has no module of one of them; it lists those near the surface."""
    names = [name for name, _ in tower.named_modules() if name]
    unknown = [level for level in levels if level not in names]
    if unknown or not levels:
        close = [name for name in names if name.count(".") <= 2 and not name.startswith("normalize")]
        raise UserError(
            f"levels={list(levels)}: the tower has no {unknown or 'level then'}; among its modules are {', '.join(close[:40])}"
        )


@contextmanager
def kept_outputs(tower: nn.Module, levels: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the named modules return in the calls of the tower inside the block; the first tensor of a tuple."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
        outputs[name] = output if isinstance(output, Tensor) else output[0]

    hooks = [tower.get_submodule(level).register_forward_hook(functools.partial(keep, level)) for level in levels]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def to_map(output: Tensor, *, rows: int, grid: tuple[int, int] | None, name: str) -> Float[Tensor, "b d h w"]:
    """A module's output as a map, channels first.

    output: [b d h w]; [b n d], whose last rows·columns tokens are the raster; or [b·n d], as native blocks have it.
    rows: images of the batch.  grid: of the tower's own raster.  Raises UserError if it is none of these.
    """
    if output.ndim == 4:
        return output
    if output.ndim == 2 and len(output) % rows == 0:
        output = rearrange(output, "(b n) d -> b n d", b=rows)
    if output.ndim == 3 and grid is not None and output.shape[1] >= grid[0] * grid[1]:
        return rearrange(output[:, -grid[0] * grid[1] :], "b (h w) d -> b d h w", h=grid[0])
    raise UserError(f"levels: {name} gives {tuple(output.shape)}, which is no map of places: choose another module")


@torch.no_grad()
def level_widths(tower: Any, levels: Sequence[str]) -> list[int]:
    """Channels of each level's map, found by one blank image."""
    if not levels:
        return []
    require_modules(tower, levels)
    parameter = next(tower.parameters())
    pixels = torch.zeros(1, 3, *height_and_width(tower.image_size), dtype=torch.uint8, device=parameter.device)
    modes = {module: module.training for module in tower.modules()}
    tower.eval()
    try:
        with kept_outputs(tower, levels) as outputs:
            grid = tower(Image(pixels=pixels)).grid
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [to_map(outputs[level], rows=1, grid=grid, name=level).shape[1] for level in levels]
