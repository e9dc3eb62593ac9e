"""AP50 of boxes on frozen maps against the share of labelled scenes: the detection head on the maps of one checkpoint's tower.

    python -m experiments.label_efficiency.boxes RUN --shares 0.01 0.1 --draws 3

The maps are computed once, without augmentation, and the head of experiment=detection_scenes is trained on them: AdamW 2e-3, 50
steps of warm-up, then a cosine. Images of a draw are those of task=[label_efficiency]. Prints AP and AP50 on the test split of
the run's own data, in percent.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import vlp
from vlp.build import build
from vlp.data.datamodule import DataModule
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.launch.runs.provenance import parts_of_checkpoint
from vlp.metrics.label_curve import mean_and_interval
from vlp.random import permutation
from vlp.structures import Batch, Features, Tokens, require
from vlp.tasks.detection import Detection

WARMUP, RATE, BATCH = 50, 2e-3, 64


def measure(predictor: Any, config: dict[str, Any], share: float, draw: int, steps: int) -> dict[str, float | None]:
    """Of one head, on test."""
    data = make_data(predictor, config)
    count = max(1, round(share * config["data"]["images"]["train"]))
    data.max_train_samples, data.train_draw, data.batch_size = count, draw, min(BATCH, count)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(draw)
    vision = predictor.model.part("vision")
    task: Detection = build(
        {**config["tasks"]["detection"], "class_names": list(require(data.class_names)), "states_width": vision.width,
         "embed_width": 0, "level_widths": []}
    )  # fmt: skip
    task.prepare(predictor.model, predictor.tokenizer, data)
    train(predictor, data, task, steps)
    task.eval()
    task.split = "test"
    task.reset()
    task.prepare(predictor.model, predictor.tokenizer, data)
    data.setup("test")
    for batch in data.test_dataloader():
        task.update(predictor.model, batch, Features(image=encode(predictor, batch)))
    return task.compute(predictor.model)


def make_data(predictor: Any, config: dict[str, Any]) -> DataModule:
    transform = {"train": predictor.transform, "eval": predictor.transform}
    made: DataModule = build(
        {**config["data"], "num_workers": 0}, tokenizer=predictor.tokenizer, transform=transform, seed=0
    )
    return made


@torch.no_grad()
def encode(predictor: Any, batch: Batch) -> Tokens:
    tokens: Tokens = predictor.model.encode_image(require(batch.image))
    return tokens


def train(predictor: Any, data: DataModule, task: Detection, steps: int) -> None:
    size = data.batch_size
    loader = data.train_dataloader()
    examples = [loader.dataset[(0, index)] for index in range(len(data.split("train")))]
    parts = [
        encode(predictor, loader.collate_fn(examples[start : start + 256])) for start in range(0, len(examples), 256)
    ]
    states = torch.cat([part.states for part in parts])
    optimizer = torch.optim.AdamW(task.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.1)
    task.train()
    order = torch.zeros(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < size:
            order = torch.cat([order, permutation(len(examples), 0, step)])
        rows, order = order[:size], order[size:]
        rate = min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = RATE * rate
        tokens = Tokens(states=states[rows], pooled=states[rows].mean(1), grid=parts[0].grid)
        batch: Batch = loader.collate_fn([examples[row] for row in rows.tolist()])
        loss = task(predictor.model, batch, Features(image=tokens, step=step))
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    composed = Composer(conf=conf_folder(), config_name="train").compose(["experiment=detection_scenes"])
    config = resolve_config(composed, Path())
    (data,) = (content for group, _, content in parts_of_checkpoint(options.checkpoint) if group == "data")
    config["data"] = OmegaConf.to_container(OmegaConf.create(data), resolve=True) | {"boxes": True}
    predictor = vlp.load(options.checkpoint)
    predictor.model.eval().requires_grad_(False)
    for share in options.shares:
        figures = []
        for draw in options.draws:
            begin = time.process_time()
            found = measure(predictor, config, share, draw, options.steps)
            figures.append(found)
            row = {"share": share, "draw": draw, "ap": found["ap"], "ap50": found["ap50"]}
            print(json.dumps(row | {"cpu_seconds": round(time.process_time() - begin, 1)}), flush=True)
        means = {name: mean_and_interval([float(row[name] or 0) for row in figures]) for name in ("ap", "ap50")}
        print(json.dumps({"share": share, **means}), flush=True)


if __name__ == "__main__":
    main()
