"""A real artifact, written without torch: its ONNX graphs compute what `FakeEngine` computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from tests.deploy.index.fake_engine import COLOURS, GRID, SIDE
from vlp.data.resizing import EvalResizer
from vlp.deploy.runtime.manifest import Graph, Manifest, write_manifest
from vlp.deploy.runtime.preprocess import PicturePreprocessing
from vlp.system.atomic import atomic_write_json
from vlp.tokenizers.rules import TextRules

PAD, START, END, WORD = 0, 1, 2, 3
WIDTH = 3 * GRID * GRID


def write_artifact(folder: Path, *, family: str = "colours") -> Path:
    """family: a word in the manifest; another one makes another fingerprint."""
    folder.mkdir(parents=True)
    onnx.save(image_graph(), folder / "image.onnx")
    onnx.save(text_graph(), folder / "text.onnx")
    vocabulary = {"<pad>": PAD, "<start>": START, "<end>": END, "<word>": WORD}
    vocabulary |= {colour: 4 + number for number, colour in enumerate(COLOURS)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<word>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    resizer = EvalResizer(image_size=SIDE)
    atomic_write_json(folder / "transform.json", PicturePreprocessing(resizer=resizer, jpeg_multiple=2).spec())
    graphs = {
        "image": Graph(file="image.onnx", backend="onnx", inputs=("pixels",), outputs=("image_embeds",)),
        "text": Graph(file="text.onnx", backend="onnx", inputs=("ids", "mask"), outputs=("text_embeds",)),
    }
    rules = TextRules(context_length=16, start_id=START, end_id=END, pad_id=PAD)
    write_manifest(folder, Manifest(
        family=family, version="0", checkpoint="0" * 64, precision="float32", width=WIDTH, image_size=(SIDE, SIDE),
        verbs=("embed_images", "embed_texts", "similarity"), graphs=graphs, logit_scale=10.0, tokenizer=rules,
    ))  # fmt: skip
    return folder


def model(nodes: list, inputs: list, output: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Ends with unit vectors of the last node's output."""
    nodes += [
        helper.make_node("ReduceL2", [nodes[-1].output[0], "last"], ["length"], keepdims=1),
        helper.make_node("Div", [nodes[-1].output[0], "length"], [output]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in (constants | {"last": np.array([1])}).items()]
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", WIDTH])
    graph = helper.make_graph(nodes, "colours", inputs, [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def image_graph() -> onnx.ModelProto:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", 3, SIDE, SIDE])
    cell = SIDE // GRID
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["float"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Sub", ["cells", "grey"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["flat"]),
    ]
    return model(nodes, [pixels], "image_embeds", {"grey": np.array(110.0, dtype=np.float32)})


def text_graph() -> onnx.ModelProto:
    """The mean of the named colours; words that name none add next to nothing."""
    table = np.zeros((4 + len(COLOURS), WIDTH), dtype=np.float32)
    table[WORD] = 1e-3
    for number, colour in enumerate(COLOURS.values()):
        table[4 + number] = np.repeat(np.array(colour, dtype=np.float32) - 110, GRID * GRID)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"])
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["b", "t"])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "end"], ["weights"]),
        helper.make_node("Mul", ["words", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "last"], ["total"], keepdims=0),
    ]
    return model(nodes, [ids, mask], "text_embeds", {"table": table, "end": np.array([2])})
