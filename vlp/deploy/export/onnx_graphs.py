"""A module as an ONNX graph, by torch.export and torch's exporter on top of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.deploy.export.plan import PlannedGraph
from vlp.system.errors import UserError

OPSET = 20
SINGLE_FILE_BYTES = 1_500_000_000  # a protobuf ends at 2 GiB: weights of larger graphs lie beside them
_TEXT, _ROWS = {0: "batch", 1: "length"}, {0: "batch"}
DYNAMIC: Mapping[str, Mapping[int, str]] = {  # dimensions of an input that may be anything when the graph runs
    "pixels": _ROWS, "image_states": _ROWS, "ids": _TEXT, "mask": _TEXT, "question_ids": {0: "batch", 1: "question"},
    "question_mask": {0: "batch", 1: "question"}, "queries": {0: "names"}, "memory_mask": {0: "batch", 1: "memory"},
}  # fmt: skip


def export_program(
    graph: PlannedGraph, example: Mapping[str, Tensor], longest: Mapping[str, int], *, strict: bool
) -> torch.export.ExportedProgram:
    """longest: of each dynamic dimension that has a bound, by name.  Raises whatever torch raises."""
    names: dict[str, Any] = {}

    def dimension(name: str) -> Any:
        if name not in names:
            names[name] = torch.export.Dim(name, min=1, max=longest.get(name))
        return names[name]

    shapes = {
        name: {index: dimension(each) for index, each in dynamic_dimensions(graph, name, tensor).items()}
        for name, tensor in example.items()
    }
    with torch.no_grad():
        return torch.export.export(graph.module, (), dict(example), dynamic_shapes=shapes, strict=strict)


def dynamic_dimensions(graph: PlannedGraph, name: str, tensor: Tensor) -> dict[int, str]:
    """Index → name of those of one input."""
    if name == "ids" and "past" in graph.inputs:  # one token for each row
        return {0: "batch"}
    if name in ("past", "memory"):  # [r l two h n k] of a `CausalDecoder`; [r n] and [r m d] of a `CocaDecoder`
        growing = {"past": "past", "memory": "memory"}[name]
        if tensor.ndim == 6:
            return {0: "batch", 4: growing} if name == "past" or "memory_mask" in graph.inputs else {0: "batch"}
        return {0: "batch", 1: growing} if name == "past" else {0: "batch"}
    return dict(DYNAMIC[name])


def export_onnx(graph: PlannedGraph, example: Mapping[str, Tensor], longest: Mapping[str, int], file: Path) -> None:
    """Writes `file`, and beside it `file`.data where the weights are too large for one.  Raises UserError, of one sentence, for a
    module that torch cannot follow."""
    import onnx

    program = _first_that_works(graph, example, longest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(
            program, opset_version=OPSET, dynamo=True, verbose=False, input_names=list(example),
            output_names=list(graph.outputs),
        )  # fmt: skip
    for part in _records(exported.model):  # paths of this machine
        part.metadata_props.clear()
        part.doc_string = None
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.module.state_dict().values())
    exported.save(str(file), external_data=size > SINGLE_FILE_BYTES)
    onnx.checker.check_model(str(file))  # "Duplicate definition of name" is found here, not by the exporter


def _records(model: Any) -> Any:
    yield model
    yield model.graph
    yield from model.graph
    yield from (value for node in model.graph for value in node.outputs)
    yield from model.functions.values()


def _first_that_works(
    graph: PlannedGraph, example: Mapping[str, Tensor], longest: Mapping[str, int]
) -> torch.export.ExportedProgram:
    for strict in (False, True):
        try:
            return export_program(graph, example, longest, strict=strict)
        except UserError:
            raise
        except Exception as error:  # torch raises many kinds
            last = error
    reason = next((line for line in str(last).splitlines() if line.strip()), type(last).__name__)
    raise UserError(
        f"the graph {graph.name} cannot be exported, as torch.export cannot follow the code of this model ({reason[:200]}): "
        "choose other graphs with --only, or serve the checkpoint with torch"
    ) from last
