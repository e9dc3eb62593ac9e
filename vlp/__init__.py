"""vlp: experiments in vision-language pre-training. `vlp.load(checkpoint)` gives a predictor."""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # torch is imported only when a model is loaded, so that `vlp --help` answers at once
    if name == "load":
        from vlp.predictor import load

        return load
    raise AttributeError(f"module 'vlp' has no attribute {name!r}")
