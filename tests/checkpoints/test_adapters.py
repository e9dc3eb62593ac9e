from __future__ import annotations

import torch

from vlp.checkpoints.adapters import merge_adapters


def test_the_sum_takes_the_weights_name() -> None:
    state = {
        "vision.q.parametrizations.weight.original": torch.eye(2),
        "vision.q.parametrizations.weight.0.a": torch.tensor([[1.0, 2.0]]),
        "vision.q.parametrizations.weight.0.b": torch.tensor([[10.0], [0.0]]),
        "vision.q.bias": torch.zeros(2),
    }
    merged = merge_adapters(state, rank=1, alpha=0.5, targets="q")
    assert {name: value.tolist() for name, value in merged.items()} == {
        "vision.q.weight": [[6.0, 10.0], [0.0, 1.0]],
        "vision.q.bias": [0.0, 0.0],
    }
