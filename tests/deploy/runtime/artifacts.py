"""Artifacts of small predictors whose graphs are run by torch: what is compared is all that the runtime does around them.

`tests/deploy/export` compares the graphs themselves, in the runtimes that serve them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.data.pictures import picture
from vlp.deploy.export.graphs import GraphModule
from vlp.deploy.export.plan import plan_graphs
from vlp.deploy.export.sections import describe
from vlp.deploy.export.tokenizer_file import write_tokenizer
from vlp.deploy.export.transform_spec import to_spec, write_transform
from vlp.deploy.runtime import graphs as graph_files
from vlp.deploy.runtime.abilities import possible_verbs
from vlp.deploy.runtime.engine import Engine, open_artifact
from vlp.deploy.runtime.manifest import Graph, Manifest, write_manifest
from vlp.deploy.runtime.sessions import Run
from vlp.predictor import Predictor


def open_with_torch(predictor: Predictor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine of an artifact whose graphs are the modules that would be exported."""
    plan = plan_graphs(predictor)
    written = {}
    for name, graph in plan.graphs.items():
        (folder / f"{name}.onnx").write_text(name)
        written[name] = Graph(file=f"{name}.onnx", backend="onnx", inputs=graph.inputs, outputs=graph.outputs)
    preprocessing = to_spec(predictor.transform)
    write_transform(preprocessing, folder)
    write_tokenizer(predictor.require_tokenizer(), folder)
    pixels = predictor.load_pixels(photos(1)).pixels
    write_manifest(
        folder,
        Manifest(
            version="0", checkpoint="0" * 64, precision="float32", image_size=preprocessing.size, verbs=possible_verbs(written),
            graphs=written, **describe(predictor, plan, pixels),
        ),
    )  # fmt: skip
    monkeypatch.setattr(
        graph_files, "open_session", lambda folder, graph, **_: run_module(plan.graphs[Path(graph.file).stem].module)
    )
    return open_artifact(folder)


def run_module(module: GraphModule) -> Run:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found: Any = module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
        found = found if isinstance(found, tuple) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(module.outputs, found, strict=True)}

    return run


def photos(count: int = 5) -> list[PIL.Image.Image]:
    """Of different sizes; from the fourth on, they come again."""
    different = [picture(seed, (50 + 9 * seed, 70 - 6 * seed)) for seed in range(3)]
    return [different[index % 3] for index in range(count)]
