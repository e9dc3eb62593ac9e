"""`Engine.classify`: the probability of each label, by texts or by the artifact's own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlp.deploy.runtime.equal_inputs import Results, pixel_keys, require_finite
from vlp.deploy.runtime.generate import log_softmax
from vlp.deploy.runtime.preprocess import Picture
from vlp.system.errors import UserError
from vlp.verbs.labels import check_prompts


def classify(
    engine: Any, images: Sequence[Picture], labels: Sequence[str] | None, templates: Sequence[str] | None
) -> list[dict[str, float]]:
    """See `Engine.classify`."""
    if labels is None:
        return _by_head(engine, images, templates)
    names, prompts = check_prompts(labels, templates)
    engine.require("similarity")
    logits = engine.compare(engine.embed_images(images), embed_names(engine, names, prompts))
    return _named(logits, names)


def embed_names(engine: Any, names: Sequence[str], prompts: Sequence[str]) -> Float[np.ndarray, "c e"]:
    """Of unit length: the mean of the embeddings of a name's prompts."""
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    embeds = engine.embed_texts(texts).reshape(len(names), len(prompts), -1).mean(1)
    return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), np.float32(1e-12))


def _by_head(engine: Any, images: Sequence[Picture], templates: Sequence[str] | None) -> list[dict[str, float]]:
    head = engine.manifest.classifier
    if head is None or "classifier" not in engine.graphs:
        raise UserError("labels: this artifact has no classifier of its own: give labels")
    if templates is not None:
        raise UserError(f"templates: {head.task} of this artifact is trained and reads no prompts: leave them out")

    def run(pixels: np.ndarray) -> np.ndarray:
        return engine.graphs.run("classifier", {"pixels": pixels})["class_logits"]

    results: Results[np.ndarray] = Results()
    rows: list[np.ndarray] = []
    for batch in engine.batches(images, "images"):
        pixels = engine.load_pixels(batch)
        rows += results.get(pixel_keys(pixels), run, pixels)
    return _named(require_finite(np.stack(rows), "logits of the classes"), head.names)


def _named(logits: Float[np.ndarray, "n c"], names: Sequence[str]) -> list[dict[str, float]]:
    return [dict(zip(names, row, strict=True)) for row in np.exp(log_softmax(logits)).tolist()]
