"""In evaluation the last maps of a model are computed in float32, outside autocast, since their results are compared.

bfloat16 keeps 8 bits: of 1,600 logits between 0 and 1 most equal another one, so ranks and answers would be decided by ties.
Training computes them in the precision of the run.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vlp.structures import Record

LOW_PRECISION = (torch.bfloat16, torch.float16)


def to_float32(x: Tensor) -> Tensor:
    """float64 stays as it is."""
    return x.float() if x.dtype in LOW_PRECISION else x


def _to_float32(x: Any) -> Any:
    if isinstance(x, Record):
        return x.map(to_float32)
    return to_float32(x) if isinstance(x, Tensor) else x


def apply_head(head: nn.Module, *inputs: Any) -> Any:
    """The head's output: in training as any module computes it, in evaluation mode in float32, whatever the precision of the
    run, of its weights and of its inputs is.  inputs: tensors, records or None."""
    if head.training:
        return head(*inputs)
    tensors = dict(itertools.chain(head.named_parameters(), head.named_buffers()))
    given = [x for x in (*inputs, *tensors.values()) if isinstance(x, Tensor)]
    with torch.autocast(given[0].device.type, enabled=False):
        inputs = tuple(_to_float32(x) for x in inputs)
        if not any(tensor.dtype in LOW_PRECISION for tensor in tensors.values()):
            return head(*inputs)
        return functional_call(head, {name: to_float32(tensor) for name, tensor in tensors.items()}, inputs)
