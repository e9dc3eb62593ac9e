"""The old name of `vlp.data.datamodule`, for data sets of one's own; it goes in version 0.3."""

from __future__ import annotations

import warnings
from typing import Any

from vlp.data import datamodule


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn(
        f"vlp.data.base was renamed: write from vlp.data.datamodule import {name}", FutureWarning, stacklevel=2
    )
    return getattr(datamodule, name)
