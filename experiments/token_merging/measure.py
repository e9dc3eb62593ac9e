"""Recall and speed of a trained vision transformer against the tokens that merging keeps, without training.

    python experiments/token_merging/measure.py OUT --data FOLDER CHECKPOINT [--shares 1 0.75 0.5 0.25 0.12 0.06 0.03]

On the test scenes, whose texts are embedded once. `without` is merging without proportional attention. CPU milliseconds of the
image tower for a picture, one thread, the least of several alternating rounds over a batch of 50.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import vlp
from vlp.datasets.scenes import Scenes
from vlp.metrics.recall import rank_candidates, summarise_recall
from vlp.models.vision.tome import set_merging
from vlp.predictor import Predictor

ROUNDS, BATCH = 5, 50
Settings = dict[str, Any]


def recall(image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor) -> dict[str, float]:
    ranks = rank_candidates(image, text, image_id, text_id), rank_candidates(text, image, text_id, image_id)
    return {key: round(value, 2) for key, value in summarise_recall(*ranks).items() if "rank" not in key}


@torch.inference_mode()
def least_milliseconds(predictor: Predictor, pictures: list[str], settings: dict[str, Settings]) -> dict[str, float]:
    pixels = predictor.load_pixels(pictures)
    least = dict.fromkeys(settings, float("inf"))
    for _ in range(ROUNDS):
        for name, setting in settings.items():
            set_merging(predictor.model, setting)
            begin = time.process_time()
            predictor.model.encode_image(pixels, pooled_only=True)
            least[name] = min(least[name], 1e3 * (time.process_time() - begin) / len(pictures))
    return least


def measure(predictor: Predictor, data: Scenes, settings: dict[str, Settings]) -> dict[str, Any]:
    samples = data.split("test")
    pictures = [str(sample.image) for sample in samples]
    text = predictor.embed_texts([caption for sample in samples for caption in sample.captions])
    image_id = torch.tensor([sample.id for sample in samples])
    text_id = torch.tensor([sample.id for sample in samples for _ in sample.captions])
    times = least_milliseconds(predictor, pictures[:BATCH], settings)
    tower: Any = predictor.model.vision
    patches, results = tower.grid[0] * tower.grid[1], {}
    for name, setting in settings.items():
        set_merging(predictor.model, setting)
        removed = sum(tower.merging.schedule(layers=len(tower.blocks), patches=patches))
        figures = recall(predictor.embed_images(pictures), text, image_id, text_id)
        results[name] = {"patches_left": patches - removed, "milliseconds": round(times[name], 3), **figures}
    return results


def draw(results: dict[str, Any], path: Path) -> None:
    figure, (tokens, speed) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for label, chosen in (("proportional attention", "kept"), ("without", "without")):
        rows = [row for name, row in results.items() if name.startswith(chosen)]
        means = [row["rsum"] / 6 for row in rows]
        tokens.plot([row["patches_left"] for row in rows], means, "o-", label=label)
        if chosen == "kept":
            speed.plot([rows[0]["milliseconds"] / row["milliseconds"] for row in rows], means, "o-")
    tokens.set(xlabel="patches left of the last block", ylabel="mean recall at 1, 5 and 10, both ways, percent")
    speed.set(xlabel="times as fast as without merging")
    tokens.set_ylim(0, 1.15 * max(row["rsum"] / 6 for row in results.values()))
    tokens.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of results.json and token_merging.png")
    parser.add_argument("--data", type=Path, required=True, help="root of the scenes")
    parser.add_argument("checkpoint")
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25, 0.12, 0.06, 0.03])
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictor = vlp.load(options.checkpoint)
    data = Scenes(
        name="scenes", root=options.data, images={"train": 10000, "val": 500, "test": 500}, size=64, scene_seed=0,
        transform=dict.fromkeys(("train", "eval"), predictor.require_transform()),
    )  # fmt: skip
    data.prepare_data()
    settings: dict[str, Settings] = {f"kept {share:g}": {"kept_share": share} for share in options.shares}
    settings |= {
        f"without {share:g}": {"kept_share": share, "proportional": False} for share in options.shares if share <= 0.5
    }
    results = measure(predictor, data, settings)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, options.out / "token_merging.png")
    for name, result in results.items():
        print(name, json.dumps(result))


if __name__ == "__main__":
    main()
