"""Inner maps of a vision tower by the names of its modules, whatever library the tower is of.

Hooks live for one call only, so that copies of the model, several objectives and threads do not meet.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vlp.models.vision.positions import MAX_EXTRA_TOKENS
from vlp.structures import Image, Tokens, height_and_width
from vlp.system.errors import UserError

NO_RASTER_WITH_MERGING = (
    "a vision tower that merges tokens (model.vision.merging) has no raster, which boxes, masks and pixels are read from: set "
    "model/vision/merging=null"
)


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


def to_maps(
    outputs: Mapping[str, Tensor], levels: Iterable[str], tokens: Tokens, tower: nn.Module
) -> dict[str, Float[Tensor, "b d h w"]]:
    """outputs: as `kept_outputs` gives them.  tokens: what the same call of the tower returned.  Raises UserError for a module that
    the call did not use, or whose output is no map."""
    if getattr(tower, "merging", None) is not None and tokens.grid is None:
        raise UserError(NO_RASTER_WITH_MERGING)
    missing = [name for name in levels if name not in outputs]
    if missing:
        raise UserError(
            f"levels: the tower did not use {', '.join(missing)} for these images (FrozenLevels with keep reads its features from "
            "its cache): set keep=0, or choose other modules"
        )
    options: dict[str, Any] = {"rows": tokens.pooled.shape[0], "grid": tokens.grid, "count": tokens.states.shape[1]}
    options["channels_last"] = getattr(tower, "channels_last", False)
    return {name: to_map(outputs[name], **options, name=name) for name in levels}


def to_map(
    output: Tensor,
    *,
    rows: int,
    grid: tuple[int, int] | None,
    name: str,
    count: int | None = None,
    channels_last: bool = False,
) -> Float[Tensor, "b d h w"]:
    """A module's output as a map, channels first.

    output: [b d h w], or [b h w d], which is recognised by the shape of the grid; [b n d] or, as native blocks have it, [b·n d],
    whose last rows·columns tokens are the raster, or a raster of 2, 4, … times as many rows and columns without other tokens
    (stages of Swin).
    rows: images of the batch.  grid: of the tower's own raster.  count: tokens of the tower's own states; None = unknown.
    channels_last: how a map of as many channels as rows is read.  Raises UserError if it is none of these.
    """
    if output.ndim == 4:
        return channels_first(output, grid, channels_last)
    if output.ndim == 2 and output.shape[0] % rows == 0:
        output = rearrange(output, "(b n) d -> b n d", b=rows)
    if output.ndim == 3 and grid is not None:
        found = raster(output.shape[1], grid, count)
        if found is not None:
            return rearrange(output[:, -found[0] * found[1] :], "b (h w) d -> b d h w", h=found[0])
    raise UserError(f"levels: {name} gives {tuple(output.shape)}, which is no map of places: choose another module")


def channels_first(maps: Tensor, grid: tuple[int, int] | None, channels_last: bool = False) -> Float[Tensor, "b d h w"]:
    """Maps [b d h w] or [b h w d], whichever has sides that are to each other as those of the grid, up to rounding; where both or
    neither have, or there is no grid, channels_last says."""
    rows, columns = grid or (1, 1)

    def fits(height: int, width: int) -> bool:
        return abs(math.log(height * columns / (width * rows))) <= 1 / rows + 1 / columns

    first, last = fits(*maps.shape[2:]), fits(*maps.shape[1:3])
    is_last = channels_last if grid is None or first == last else last
    return rearrange(maps, "b h w d -> b d h w") if is_last else maps


def raster(count: int, grid: tuple[int, int], tower_count: int | None) -> tuple[int, int] | None:
    """Rows and columns of the raster at the end of `count` tokens of a module; None = there is none.

    grid, tower_count: those of the tower's own states; None = unknown."""
    cells = grid[0] * grid[1]
    extra = MAX_EXTRA_TOKENS if tower_count is None else tower_count - cells
    if count in (cells, cells + extra) or (tower_count is None and cells <= count <= cells + extra):
        return grid
    scale = math.isqrt(count // cells) if count % cells == 0 else 0
    if scale > 1 and scale & (scale - 1) == 0 and scale**2 * cells == count:
        return grid[0] * scale, grid[1] * scale
    return None


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
            tokens = tower(Image(pixels=pixels))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [maps.shape[1] for maps in to_maps(outputs, levels, tokens, tower).values()]
