"""A small artifact of ONNX graphs written node by node, without torch: for what loads and runs real graphs.

An image's embedding is a map of its mean colour; a text's is the mean of its tokens' vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vlp.data.resizing import EvalResizer
from vlp.deploy.export.tokenizer_file import write_tokenizer
from vlp.deploy.export.transform_spec import write_transform
from vlp.deploy.runtime.manifest import ClassifierSection, Graph, Manifest, write_manifest
from vlp.deploy.runtime.preprocess import PicturePreprocessing
from vlp.tokenizers.trained import TrainedTokenizer

SIDE, WIDTH, WORDS = 16, 6, 300
_FLOAT, _UINT8, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL


def _model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[object]]], output: tuple[str, list[object]],
           weights: dict[str, np.ndarray]) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(output[0], _FLOAT, output[1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _unit(name: str, output: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceL2", [name, "last"], ["length"], keepdims=1),
        helper.make_node("Div", [name, "length"], [output]),
    ]


def image_graph(output: str, width: int = WIDTH, *, unit: bool = True) -> onnx.ModelProto:
    weights = {
        "weight": np.random.default_rng(1).normal(size=(3, width)).astype(np.float32),
        "half": np.array(127.5, dtype=np.float32), "sides": np.array([2, 3]), "last": np.array([1]),
    }  # fmt: skip
    end = "product" if unit else output
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=_FLOAT),
        helper.make_node("Sub", ["floats", "half"], ["centred"]),
        helper.make_node("ReduceMean", ["centred", "sides"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], [end]),
    ]
    nodes += _unit("product", output) if unit else []
    return _model(nodes, {"pixels": (_UINT8, ["b", 3, SIDE, SIDE])}, (output, ["b", width]), weights)


def text_graph() -> onnx.ModelProto:
    weights = {
        "table": np.random.default_rng(2).normal(size=(WORDS, WIDTH)).astype(np.float32),
        "tokens": np.array([1]), "last": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Cast", ["mask"], ["real"], to=_FLOAT),
        helper.make_node("Unsqueeze", ["real", "two"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        *_unit("sum", "text_embeds"),
    ]
    inputs: dict[str, tuple[int, list[object]]] = {"ids": (_INT64, ["b", "t"]), "mask": (_BOOL, ["b", "t"])}
    return _model(nodes, inputs, ("text_embeds", ["b", WIDTH]), weights | {"two": np.array([2])})


def write_onnx_artifact(folder: Path, *, openvino: bool = False) -> Manifest:
    """With the verbs of a CLIP and a classifier of three classes.  openvino: the same graphs in its format."""
    graphs = {}
    for name, model, inputs, output in (
        ("image", image_graph("image_embeds"), ("pixels",), "image_embeds"),
        ("classifier", image_graph("class_logits", 3, unit=False), ("pixels",), "class_logits"),
        ("text", text_graph(), ("ids", "mask"), "text_embeds"),
    ):
        onnx.save(model, str(folder / f"{name}.onnx"))
        graphs[name] = Graph(file=f"{name}.onnx", backend="onnx", inputs=inputs, outputs=(output,))
        if openvino:
            import openvino as library

            read = library.Core().read_model(str(folder / f"{name}.onnx"))
            library.save_model(read, str(folder / f"{name}.xml"), compress_to_fp16=False)
            (folder / f"{name}.onnx").unlink()
            graphs[name] = Graph(
                file=f"{name}.xml", backend="openvino", inputs=inputs, outputs=(output,), data=(f"{name}.bin",)
            )
    tokenizer = TrainedTokenizer(size=WORDS, context_length=12)
    tokenizer.train(["a red dog", "a blue cat"] * 2)
    write_transform(PicturePreprocessing(resizer=EvalResizer(image_size=SIDE)), folder)
    manifest = Manifest(
        family="clip", version="0", checkpoint="0" * 64, precision="float32", width=WIDTH, image_size=(SIDE, SIDE),
        verbs=("embed_images", "embed_texts", "similarity", "classify"), graphs=graphs, logit_scale=10.0,
        tokenizer=write_tokenizer(tokenizer, folder), classifier=ClassifierSection(task="probe", names=("cat", "dog", "cow")),
    )  # fmt: skip
    return write_manifest(folder, manifest)
