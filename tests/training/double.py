"""A run of a frozen config in float64, for comparisons to the last digits: python tests/training/double.py RUN/config.yaml

Lightning's own double precision does not take frozen records as batches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)

from vlp.training.run import run  # noqa: E402  # buffers and parameters are made in float64

if __name__ == "__main__":
    run(Path(sys.argv[1]))
