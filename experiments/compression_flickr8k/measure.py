"""Recall, size and latency of checkpoints and of exported artifacts, both towers, in one figure.

    python experiments/compression_flickr8k/measure.py OUT --data 'data=flickr8k data.root=PHOTOS' NAME=CHECKPOINT NAME=ARTIFACT …

Each is measured on the test split with float32 embeddings, and with the signs of the image embeddings (float texts against them).
Megabytes: of the weights of what embeds pictures and texts, as they are stored (a checkpoint's: 4 bytes a number). Latency: CPU
milliseconds of one picture of the size that the model reads, and of one caption, one thread, the least of several alternating
rounds, each with another picture and caption, as some towers keep what they have computed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import vlp
from experiments.compression_scenes.measure import recall
from vlp.curation.composed_data import build_only_source
from vlp.deploy.runtime.engine import open_artifact
from vlp.structures import Sample

ROUNDS = 15


class Measured:
    """A checkpoint in torch, or an artifact in its runtime.  path: a folder with manifest.json is an artifact."""

    def __init__(self, path: str) -> None:
        self.artifact = (Path(path) / "manifest.json").exists()
        self.model: Any = open_artifact(Path(path), threads=1) if self.artifact else vlp.load(path)
        if self.artifact:
            graphs = [self.model.manifest.graphs[name] for name in ("image", "text")]
            files = [Path(path) / name for graph in graphs for name in (graph.file, *graph.data)]
            self.megabytes = sum(file.stat().st_size for file in files) / 1e6
        else:
            network = self.model.model
            parts = (network.vision, network.text, network.projection)
            self.megabytes = 4 * sum(p.numel() for part in parts for p in part.parameters()) / 1e6

    def embed(self, images: list[str], texts: list[str]) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self.model.embed_images(images)), torch.as_tensor(self.model.embed_texts(texts))

    def one_image(self, path: str) -> Callable[[], Any]:
        pixels = self.model.load_pixels([path])
        if self.artifact:
            return lambda: self.model.embed_pixels(pixels)
        network = self.model.model
        return lambda: network.embed_image(network.encode_image(pixels, pooled_only=True))

    def one_text(self, text: str) -> Callable[[], Any]:
        if self.artifact:
            return lambda: self.model.embed_tokens(*self.model.tokenize([text]))
        network, tokenizer = self.model.model, self.model.require_tokenizer()
        return lambda: network.embed_text(network.encode_text(tokenizer([text]), pooled_only=True))


def least_milliseconds(models: dict[str, Measured], samples: list[Sample]) -> dict[str, dict[str, float]]:
    least = {name: {"image": float("inf"), "text": float("inf")} for name in models}
    for number in range(ROUNDS):
        sample = samples[number]
        for name, model in models.items():
            # "8 " is in no caption: none was computed before
            calls = {"image": model.one_image(str(sample.image)), "text": model.one_text(f"8 {sample.captions[0]}")}
            for side, call in calls.items():
                begin = time.process_time()
                with torch.inference_mode():
                    call()
                least[name][side] = min(least[name][side], 1e3 * (time.process_time() - begin))
    return {name: {side: round(value, 2) for side, value in sides.items()} for name, sides in least.items()}


def measure(model: Measured, samples: list[Sample]) -> dict[str, Any]:
    captions = [caption for sample in samples for caption in sample.captions]
    image_id = torch.tensor([sample.id for sample in samples])
    text_id = torch.tensor([sample.id for sample in samples for _ in sample.captions])
    image, text = model.embed([str(sample.image) for sample in samples], captions)
    signs = torch.where(image - image.mean(0) > 0, 1.0, -1.0) / image.shape[1] ** 0.5
    return {
        "width": image.shape[1],
        "megabytes": round(model.megabytes, 2),
        "float": recall(image, text, image_id, text_id),
        "signs": recall(signs, text, image_id, text_id),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Mean recall against size, time of a picture, time of a caption, and the bytes that an index keeps of a picture."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 4), sharey=True, layout="constrained")
    size, image, text, stored = axes
    for name, result in results.items():
        value, width = result["float"]["rsum"] / 6, result["width"]
        size.plot(result["megabytes"], value, "o", label=name)
        image.plot(result["milliseconds"]["image"], value, "o")
        text.plot(result["milliseconds"]["text"], value, "o")
        stored.plot([2 * width, width // 8], [value, result["signs"]["rsum"] / 6], "o-")
    size.set(xlabel="MB of weights, both towers", ylabel="mean recall at 1, 5 and 10, both ways, percent", xscale="log")
    image.set(xlabel="CPU ms for a picture, one thread", xscale="log")
    text.set(xlabel="CPU ms for a caption, one thread", xscale="log")
    stored.set(xlabel="bytes kept of a picture (signs, float16)", xscale="log")
    size.set_ylim(bottom=0)
    size.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of results.json and compression.png")
    parser.add_argument("--data", required=True, help="the data, as overrides in one string")
    parser.add_argument("models", nargs="+", metavar="NAME=PATH")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Measured(path) for name, path in (model.split("=", 1) for model in options.models)}
    data = build_only_source(shlex.split(options.data), "this script measures")
    samples = list(data.split("test"))
    results = {name: measure(model, samples) for name, model in models.items()}
    for model in models.values():
        for module in [] if model.artifact else model.model.model.modules():
            if hasattr(module, "keep"):  # frozen towers answer from what they have kept
                module.keep = 0
    for name, times in least_milliseconds(models, samples).items():
        results[name]["milliseconds"] = times
        print(name, json.dumps(results[name]))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, options.out / "compression.png")


if __name__ == "__main__":
    main()
