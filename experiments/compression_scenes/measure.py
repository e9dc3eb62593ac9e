"""Recall, size and latency of models and of what an index keeps of them, in one figure.

    python experiments/compression_scenes/measure.py OUT --data 'data=scenes data.root=FOLDER' NAME=CHECKPOINT …

Each checkpoint is measured on the test split with float32 embeddings, with the signs of the image embeddings (float texts against
them), and with the first half of the numbers. Latency: CPU milliseconds of the image tower for one picture, one thread, the least
of several alternating rounds; an image embedding's bytes are those of a float16 row, or of its signs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Int
from torch import Tensor

import vlp
from vlp.curation.composed_data import build_only_source
from vlp.data.datamodule import DataModule
from vlp.metrics.recall import rank_candidates, summarise_recall
from vlp.models.embeddings import cut
from vlp.predictor import Predictor

ROUNDS = 15


def recall(
    image: Float[Tensor, "n e"], text: Float[Tensor, "m e"], image_id: Int[Tensor, " n"], text_id: Int[Tensor, " m"]
) -> dict[str, float]:
    ranks = rank_candidates(image, text, image_id, text_id), rank_candidates(text, image, text_id, image_id)
    return {key: round(value, 2) for key, value in summarise_recall(*ranks).items() if "rank" not in key}


def measure(predictor: Predictor, data: DataModule) -> dict[str, Any]:
    samples = data.split("test")
    captions = [caption for sample in samples for caption in sample.captions]
    image_id = torch.tensor([sample.id for sample in samples])
    text_id = torch.tensor([sample.id for sample in samples for _ in sample.captions])
    image, text = predictor.embed_images([str(sample.image) for sample in samples]), predictor.embed_texts(captions)
    width = image.shape[1]
    signs = torch.where(image - image.mean(0) > 0, 1.0, -1.0) / width**0.5
    half = width // 2
    return {
        "width": width,
        "float": recall(image, text, image_id, text_id),
        "signs": recall(signs, text, image_id, text_id),
        f"first_{half}": recall(cut(image, half), cut(text, half), image_id, text_id),
        "image_tower": sum(p.numel() for p in predictor.model.vision.parameters()),  # type: ignore[union-attr]
        "text_tower": sum(p.numel() for p in predictor.model.text.parameters()),  # type: ignore[union-attr]
    }


def least_milliseconds(predictors: dict[str, Predictor], picture: str) -> dict[str, float]:
    pixels = {name: predictor.load_pixels([picture]) for name, predictor in predictors.items()}
    least = dict.fromkeys(predictors, float("inf"))
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            begin = time.process_time()
            with torch.inference_mode():
                predictor.model.encode_image(pixels[name], pooled_only=True)
            least[name] = min(least[name], 1e3 * (time.process_time() - begin))
    return {name: round(value, 2) for name, value in least.items()}


def draw(results: dict[str, Any], path: Path) -> None:
    """Recall against the image tower's size, against its time, and against the bytes that an index keeps of a picture."""
    figure, (size, latency, stored) = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    ticks: set[int] = set()
    for name, result in results.items():
        width = result["width"]
        kept = {2 * width: "float", width: f"first_{width // 2}", width // 8: "signs"}
        value = result["float"]["rsum"] / 6
        size.plot(result["image_tower"] / 1e6, value, "o", label=name)
        latency.plot(result["milliseconds"], value, "o", label=name)
        stored.plot(kept.keys(), [result[kind]["rsum"] / 6 for kind in kept.values()], "o-", label=name)
        ticks |= kept.keys()
    size.set(xlabel="image tower, millions of parameters", ylabel="mean recall at 1, 5 and 10, both ways, percent")
    latency.set(xlabel="CPU ms for a picture, one thread")
    stored.set(xlabel="bytes kept of a picture (signs, half, all in float16)", xscale="log")
    stored.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)], minor=False)
    stored.minorticks_off()
    size.set_ylim(bottom=0)
    size.set_xlim(left=0)
    latency.set_xlim(left=0)
    size.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of results.json and compression.png")
    parser.add_argument("--data", required=True, help="the data, as overrides in one string")
    parser.add_argument("models", nargs="+", metavar="NAME=CHECKPOINT")
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictors = dict(model.split("=", 1) for model in options.models)
    loaded = {name: vlp.load(path) for name, path in predictors.items()}
    data = build_only_source(shlex.split(options.data), "this script measures")
    times = least_milliseconds(loaded, str(data.split("test")[0].image))
    results = {name: measure(model, data) | {"milliseconds": times[name]} for name, model in loaded.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, options.out / "compression.png")
    for name, result in results.items():
        print(name, json.dumps(result))


if __name__ == "__main__":
    main()
