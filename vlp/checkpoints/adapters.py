"""Low-rank adapters of a run's checkpoint, merged into the weights that they adapt: see vlp/models/lora.py."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_ORIGINAL = re.compile(r"(.+)\.parametrizations\.weight\.original")


def merge_adapters(
    state: Mapping[str, Tensor], *, rank: int, alpha: float | int | None = None, **_: object
) -> dict[str, Tensor]:
    """W + (α / r) B A under the name of W, and everything else as it is.  rank, alpha: as the run's `lora` has them."""
    scale, merged = 1.0 if alpha is None else alpha / rank, {}
    for name, value in state.items():
        match = _ORIGINAL.fullmatch(name)
        if match:
            part = f"{match[1]}.parametrizations.weight.0"
            merged[f"{match[1]}.weight"] = value + (scale * state[f"{part}.b"] @ state[f"{part}.a"]).view_as(value)
        elif ".parametrizations.weight.0." not in name:
            merged[name] = value
    return merged
