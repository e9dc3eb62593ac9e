"""Every test in this folder needs an NVIDIA GPU: `make gpu`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _needs_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU on this machine")
