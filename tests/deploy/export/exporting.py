"""Parts by torch.export and ONNX, compared with the eager module at batch sizes and lengths that the export has not seen.

python -m tests.deploy.export.exporting MODE,MODE NAME…      without the shape checks of the test run, which dynamo cannot follow
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.deploy.export import parts

UNSEEN = ((1, 2), (5, parts.CONTEXT), (2, 5))  # batch and length; the example has 3 and 7
MODES = ("not strict", "strict", "onnx")


def program_of(part: parts.Part, name: str, *, strict: bool) -> torch.export.ExportedProgram:
    longest = parts.CONTEXT - (name == "causal step")
    dimensions = {
        each: torch.export.Dim(each, min=1, max=longest if each == "length" else None)
        for each in {each for dynamic in part.dynamic for each in dynamic.values()}
    }
    shapes = tuple({index: dimensions[each] for index, each in dynamic.items()} for dynamic in part.dynamic)
    with torch.no_grad():
        return torch.export.export(part.module, part.inputs(3, 7), dynamic_shapes=shapes, strict=strict)


def runner(part: parts.Part, name: str, mode: str) -> Callable[..., Sequence[Any]]:
    program = program_of(part, name, strict=mode == "strict")
    if mode != "onnx":
        exported = program.module()

        def run(*inputs: Tensor) -> list[np.ndarray]:
            with torch.no_grad():
                found = exported(*inputs)
            return [x.numpy() for x in ([found] if isinstance(found, Tensor) else found)]

        return run
    import onnxruntime

    written = torch.onnx.export(program, opset_version=20, dynamo=True, verbose=False)
    assert written is not None
    session = onnxruntime.InferenceSession(written.model_proto.SerializeToString())
    names = [each.name for each in session.get_inputs()]
    return lambda *x: session.run(None, {name: tensor.numpy() for name, tensor in zip(names, x, strict=True)})


def largest_difference(name: str, mode: str) -> float:
    """Of any output, from the eager module; infinite where a shape differs."""
    part = parts.build_part(name)
    run, largest = runner(part, name, mode), 0.0
    for batch, length in UNSEEN:
        inputs = part.inputs(batch, length)
        with torch.no_grad():
            wanted = part.module(*inputs)
        found = run(*inputs)
        for tensor, other in zip([wanted] if isinstance(wanted, Tensor) else wanted, found, strict=True):
            same = tensor.shape == other.shape
            largest = max(largest, float(np.abs(other - tensor.numpy()).max()) if same else float("inf"))
    return largest


if __name__ == "__main__":
    torch.set_num_threads(1)
    modes, names = sys.argv[1].split(","), sys.argv[2:]
    print(json.dumps({f"{name}, {mode}": largest_difference(name, mode) for mode in modes for name in names}))
