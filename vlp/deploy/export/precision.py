"""From float32 graphs to those of another precision: OpenVINO's, or 8-bit weights of ONNX Runtime.

Never ONNX Runtime's dynamic int8: it has one scale for the activations of a batch, so an embedding depends on what else is in
its batch. Decoders stay in float32: a token that another precision chooses changes all that follow.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from vlp.deploy.runtime.manifest import PRECISIONS, Graph
from vlp.system.errors import UserError

PRECISE = ("prefill", "step", "answer_prefill", "answer_step")  # graphs that stay in float32
BLOCK = 128  # weights of a column that share a scale, of ONNX Runtime
_ACCURACY = 4  # of its products: int8


def choose_backend(precision: str, *, static: bool = False) -> str:
    """onnx or openvino.  Raises UserError where a package is missing."""
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        if static:
            raise UserError("--calibrate chooses the ranges of int8: give --precision int8 too")
        return "onnx"
    present = all(importlib.util.find_spec(name) is not None for name in ("openvino", "nncf"))
    if precision == "bfloat16" or static:
        if not present:
            raise UserError(f"{'--calibrate' if static else precision} needs OpenVINO: pip install 'vlp[openvino]'")
        return "openvino"
    return "openvino" if present else "onnx"


def convert(
    folder: Path,
    name: str,
    graph: Graph,
    precision: str,
    backend: str,
    calibration: Iterable[dict[str, Any]] | None = None,
) -> Graph:
    """Replaces the graph's ONNX file in the folder.  calibration: inputs by name, for static int8; None = weights alone."""
    if precision == "float32" or name in PRECISE:
        return graph
    if backend == "onnx":
        _quantise_onnx(folder / graph.file)
        return graph
    return _to_openvino(folder, name, graph, precision, calibration)


def _to_openvino(
    folder: Path, name: str, graph: Graph, precision: str, calibration: Iterable[dict[str, Any]] | None
) -> Graph:
    """int8: by NNCF, of the weights or, with calibration, of the activations too.  bfloat16: the weights stay in float32, and the
    runtime computes in bfloat16."""
    import openvino

    model: Any = openvino.convert_model(folder / graph.file)
    if precision == "int8":
        model = _quantise_openvino(model, calibration)
    openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)
    for file in (graph.file, *graph.data):
        (folder / file).unlink()
    return Graph(
        file=f"{name}.xml", data=(f"{name}.bin",), backend="openvino", inputs=graph.inputs, outputs=graph.outputs
    )


def _quantise_openvino(model: Any, calibration: Iterable[dict[str, Any]] | None) -> Any:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # NNCF draws progress bars and prints tables
        import nncf

        if calibration is None:
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        examples = list(calibration)
        return nncf.quantize(
            model, nncf.Dataset(examples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(examples)
        )


def _quantise_onnx(file: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)  # a line for each node otherwise
    model = onnx.load(file)
    split_gemms(model.graph)
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=_ACCURACY, bits=8)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
    onnx.save(quantizer.model.model, file)


def split_gemms(graph: Any) -> None:
    """Each y = x Wᵀ + b with stored weights becomes a MatMul and an Add, which the quantiser knows."""
    from onnx import helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        plain = options.get("alpha", 1.0) == 1.0 == options.get("beta", 1.0) and not options.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in stored:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(stored[node.input[1]])
        name = f"{node.output[0]}_weight"
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(weight.T if options.get("transB", 0) else weight), name)
        )
        bias: Sequence[str] = node.input[2:3]
        product = f"{node.output[0]}_product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}_matmul"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], list(node.output), name=f"{node.name}_add"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
