"""parity.npz: inputs and the outputs of the eager model, by which whoever runs an artifact can test that it computes them.

pictures [12 h w 3] uint8, pixels [12 3 h w]          texts [n] strings, ids [n t], mask [n t]
GRAPH/input/NAME, GRAPH/output/NAME                   of two images or texts; not of `step`, whose cache would be large
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlp.deploy.export.gate import COSINE, EQUAL, GateError, Run, cosines, eager_outputs, relative_difference
from vlp.deploy.export.golden import GoldenInputs, draw_pictures
from vlp.deploy.export.plan import Plan
from vlp.deploy.runtime.manifest import TOKENIZER_NAME, TRANSFORM_NAME, Manifest
from vlp.deploy.runtime.preprocess import read_preprocessing
from vlp.deploy.runtime.tokenize import ArtifactTokenizer

NAME = "parity.npz"
ROWS, LENGTH = 2, 13
TEXTS = (
    "a red circle left of a blue square", "a photo of a dog.", "two people ride bicycles along the beach at sunset",
    "Ein Café; naïve façade…", "what colour is the car?", "", "a", "the quick brown fox jumps over the lazy dog " * 12,
)  # fmt: skip


def texts_for(tokenizer: Any) -> list[str]:
    """Those that the tokenizer takes: one that truncates nothing refuses a text that is too long."""
    return [text for text in TEXTS if tokenizer.truncate or len(text) < 60]


def check_inputs(predictor: Any, folder: Path, manifest: Manifest) -> None:
    """Raises UserError where the runtime makes other pixels of the drawn pictures, or other ids of texts, than the checkpoint."""
    if manifest.image_size is not None:
        pictures = draw_pictures()
        found = read_preprocessing(folder / TRANSFORM_NAME).load(pictures).pixels
        wanted = torch.stack([predictor.transform(picture) for picture in pictures]).numpy()
        if not np.array_equal(found, wanted):
            raise GateError("its pixels differ from those of the checkpoint's transform")
    if manifest.tokenizer is not None:
        tokenizer = predictor.require_tokenizer()
        ours = ArtifactTokenizer(folder / TOKENIZER_NAME, manifest.tokenizer)
        for kind in ("caption", "question"):
            texts = texts_for(tokenizer)
            ids, mask = ours(texts, kind=kind)
            text = tokenizer(texts, kind=kind)
            if not (np.array_equal(ids, text.ids.numpy()) and np.array_equal(mask, text.mask.numpy())):
                raise GateError("its tokenizer gives other ids than the checkpoint's")


def write_parity(predictor: Any, plan: Plan, golden: GoldenInputs, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    if golden.pixels is not None:
        arrays |= {
            "pictures": np.stack([np.asarray(each) for each in draw_pictures()]),
            "pixels": golden.pixels.numpy(),
        }
    if golden.rules is not None:
        texts = texts_for(predictor.require_tokenizer())
        text = predictor.require_tokenizer()(texts)
        arrays |= {"texts": np.array(texts), "ids": text.ids.numpy(), "mask": text.mask.numpy()}
    for name, graph in plan.graphs.items():
        if "past" in graph.inputs:
            continue
        inputs = golden.of(graph, ROWS, min(LENGTH, golden.context_length or 1))
        outputs = eager_outputs(graph, inputs)
        arrays |= {f"{name}/input/{key}": tensor.numpy() for key, tensor in inputs.items()}
        arrays |= {
            f"{name}/output/{key}": value
            for key, value in outputs.items()
            if key not in ("past", "next_past", "memory")
        }
    np.savez_compressed(folder / NAME, **arrays)  # type: ignore[arg-type]


def compare_file(folder: Path, runs: Mapping[str, Run], precise: Collection[str]) -> None:
    """What the file says, by the runtime.  precise: graphs of float32.  Raises UserError."""
    with np.load(folder / NAME, allow_pickle=False) as file:
        stored = {key: file[key] for key in file.files}
    for name, run in runs.items():
        prefix = f"{name}/input/"
        inputs = {key.removeprefix(prefix): torch.from_numpy(stored[key]) for key in stored if key.startswith(prefix)}
        if not inputs:
            continue
        for key, found in run(inputs).items():
            wanted = stored.get(f"{name}/output/{key}")
            if wanted is None:
                continue
            difference, cosine = relative_difference(found, wanted), float(cosines(found, wanted).mean())
            if (difference > EQUAL) if name in precise else (cosine < COSINE):
                raise GateError(f"{name} read back differs from {NAME} by {difference:.1e}")
