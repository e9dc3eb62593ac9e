"""What a frozen tower's last map says about where things are: the same head on a pre-trained tower and on random ones.

`python experiments/detection_scenes/frozen_towers.py RUN` takes the tower of a run of the default experiment, and for each seed a
random tower of the same architecture, whose batch norms get their statistics from the training images: without them its map is
nearly constant. The maps of all scenes are computed once. On each, `PlaceDetector` learns the boxes of the nine shapes, for the
same number of steps at three learning rates; for each kind of tower the rate with the best mean AP on val is chosen, and measured
on test.

Further arguments are settings of `train.py`, such as data.root=FOLDER.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlp.build import build
from vlp.checkpoints.load import build_model, read
from vlp.data.datamodule import DataModule
from vlp.data.parts import build_data
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.metrics.coco_measurement import CocoMeasurement, DetectedImage
from vlp.models.dense.detection_loss import detection_loss
from vlp.models.dense.detector import PlaceDetector
from vlp.models.dense.on_photo import find_things
from vlp.models.dense.targets import class_positions, class_targets
from vlp.structures import Batch, Boxes, Image, Tokens, require
from vlp.tasks.detection import LOSSES

RATES = (1e-3, 3e-3, 1e-2)  # of AdamW; a cosine after WARMUP steps
WARMUP, DECAY, BATCH = 50, 0.01, 64
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scenes:
    """A split in memory, as evaluation sees it."""

    pixels: Tensor  # uint8 [n 3 h w]
    boxes: list[Boxes]
    id: list[int]
    frame: Float[Tensor, "n 4"]

    @classmethod
    def join(cls, batches: list[Batch]) -> Scenes:
        return cls(
            pixels=torch.cat([require(batch.image).pixels for batch in batches]),
            boxes=[boxes for batch in batches for boxes in require(batch.boxes)],
            id=[number for batch in batches for number in batch.id.tolist()],
            frame=torch.cat([require(batch.frame) for batch in batches]),
        )


def load_scenes(overrides: list[str]) -> tuple[DataModule, dict[str, Scenes]]:
    settings = ["data.boxes=true", "data.captions=one", "data.num_workers=0", "data.batch_size=16", *overrides]
    config = resolve_config(Composer(conf=conf_folder(), config_name="train").compose(settings), Path("run"))
    transform = build(config["transform"]["eval"])  # features are computed once, so nothing is moved
    data = build_data(config, transform={"train": transform, "eval": transform})
    assert isinstance(data, DataModule)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    return data, {split: Scenes.join(list(loaders[split])) for split in SPLITS}


def random_tower(architecture: dict[str, object], pixels: Tensor, seed: int) -> nn.Module:
    """With each batch norm's mean and variance over the training images."""
    torch.manual_seed(seed)
    tower: nn.Module = build(architecture)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for rows in pixels.split(256):
            tower.train()(Image(pixels=rows))
    return tower


@torch.no_grad()
def last_maps(tower: nn.Module, pixels: Tensor) -> Tokens:
    """In half precision, to save memory."""
    found: list[Tokens] = [tower.eval()(Image(pixels=rows)) for rows in pixels.split(256)]
    states = torch.cat([tokens.states.half() for tokens in found])
    return Tokens(states=states, pooled=states[:, 0], grid=found[0].grid)


def batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Rows of each step: every image once before one comes again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(count, generator=generator).split(BATCH):
            yield rows
            steps -= 1
            if not steps:
                return


def train(maps: Tokens, scenes: Scenes, data: DataModule, *, rate: float, steps: int, seed: int) -> PlaceDetector:
    names, size = require(data.class_names), scenes.pixels.shape[-2:]
    torch.manual_seed(seed)
    head = PlaceDetector(states_width=maps.states.shape[2], classes=len(names), embed_width=0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    position, extent = class_positions(names, names), torch.ones(BATCH, 2)
    for rows in batches(len(scenes.id), steps, seed):
        boxes = [scenes.boxes[row] for row in rows.tolist()]
        targets = class_targets(
            boxes, extent[: len(rows)], position=position, classes=len(names), image_size=(size[0], size[1])
        )
        loss, _ = detection_loss(head(maps.select(rows).map(Tensor.float)), targets, LOSSES)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def average_precision(head: PlaceDetector, maps: Tokens, scenes: Scenes, data: DataModule, split: str) -> float:
    """COCO's AP in percent."""
    measured, ids = CocoMeasurement(), torch.tensor(require(data.category_ids)).numpy()
    found = find_things(head(maps.map(Tensor.float)), Image(pixels=scenes.pixels), scenes.frame, count=100)
    for number, things in zip(scenes.id, found, strict=True):
        measured.images.append(
            DetectedImage(id=number, boxes=things.boxes, scores=things.scores, category_ids=ids[things.label])
        )
    figures, _ = measured.figures(data.ground_truth(split), category_ids=ids.tolist())
    return float(figures["ap"] or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder or checkpoint of the default experiment")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    options, overrides = parser.parse_known_args()
    checkpoint = read(options.run, {})
    architecture = checkpoint.config["model"]["vision"]
    pretrained = build_model(checkpoint).part("vision")
    data, scenes = load_scenes(overrides)
    pixels = {split: scenes[split].pixels for split in SPLITS}
    found: dict[
        tuple[str, float], list[tuple[float, PlaceDetector, Tokens]]
    ] = {}  # of each seed: AP on val, head, test maps
    maps = {split: last_maps(pretrained, pixels[split]) for split in SPLITS}
    for seed in range(options.seeds):
        tower = random_tower(architecture, pixels["train"], seed)
        of_seed = {"pre-trained": maps, "random": {split: last_maps(tower, pixels[split]) for split in SPLITS}}
        for kind, of_kind in of_seed.items():
            for rate in RATES:
                head = train(of_kind["train"], scenes["train"], data, rate=rate, steps=options.steps, seed=seed)
                val = average_precision(head, of_kind["val"], scenes["val"], data, "val")
                found.setdefault((kind, rate), []).append((val, head, of_kind["test"]))
                print(f"seed {seed}, {kind}, rate {rate:g}: AP {val:.2f} on val", flush=True)
    chosen = {}
    for kind in ("pre-trained", "random"):
        means = {rate: statistics.mean(val for val, _, _ in found[kind, rate]) for rate in RATES}
        rate = max(means, key=lambda rate: means[rate])
        tests = [
            average_precision(head, of_test, scenes["test"], data, "test") for _, head, of_test in found[kind, rate]
        ]
        chosen[kind] = statistics.mean(tests)
        on_val = ", ".join(f"{means[rate]:.2f} at {rate:g}" for rate in RATES)
        print(f"{kind}: val {on_val}; test {chosen[kind]:.2f} ({', '.join(f'{ap:.2f}' for ap in tests)}) at {rate:g}")
    if chosen["random"]:
        print(f"pre-trained over random: {chosen['pre-trained'] / chosen['random']:.1f}")


if __name__ == "__main__":
    main()
