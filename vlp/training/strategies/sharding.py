"""What FSDP2 needs to know of any model: which parts are gathered together, and which rows of a tensor are this process's.

Names no model. A unit is gathered before its own forward and let go after it; everything else is one last unit, gathered
for the whole step.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def block_units(module: nn.Module) -> list[nn.Module]:
    """The blocks of every stack (ModuleList, Sequential) in `module`, innermost ones.

    Left out: blocks that share parameters with something else, as a unit's parameters are there only during its own
    forward. Of a block that is also asked from outside (`project_memory`: the keys and values of a cross-attention), only the
    parts that are not.
    """
    places = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))

    def alone(part: nn.Module) -> bool:
        inside = Counter(id(parameter) for _, parameter in part.named_parameters(remove_duplicate=False))
        return bool(inside) and all(places[key] == count for key, count in inside.items())

    def found(part: nn.Module, block: bool) -> list[nn.Module]:
        stack = isinstance(part, (nn.ModuleList, nn.Sequential))
        inner = [
            unit for child in part.children() for unit in found(child, stack and any(True for _ in child.children()))
        ]
        if inner or not block:
            return inner
        if any(hasattr(inside, "project_memory") for inside in part.modules()):
            return [unit for child in part.children() for unit in found(child, any(True for _ in child.children()))]
        return [part] if alone(part) else []

    return list(dict.fromkeys(found(module, False)))


def local_rows(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a whole tensor, dealt out as `parameter` is; every process already has the whole."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
        return value
    full = value.reshape(parameter.shape).to(parameter.device)
    return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
