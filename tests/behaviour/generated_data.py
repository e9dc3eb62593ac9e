"""Overrides that run an experiment on generated scenes, in the layout that it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image

from vlp.scenes.generate import generate

LABEL_MAPS = ("camvid", "ade20k_segmentation")
RECIPES = ("pretrain_4m_albef", "pretrain_4m_vilt")
MIXTURES = ("encoder_decoder_scenes", "seed_pretrain")
Counts = Mapping[str, int]


def scenes_overrides(folder: Path, images: Counts) -> list[str]:
    return [f"data.root={folder}", *(f"data.images.{split}={count}" for split, count in images.items())]


def mixture_overrides(folder: Path, images: Counts) -> list[str]:
    prefix = "data.sources.scenes"
    return [f"{prefix}.root={folder}", *(f"{prefix}.images.{split}={count}" for split, count in images.items())]


def coco_overrides(folder: Path) -> list[str]:
    """COCO's instances and photos, and a tower of one layer for small photos."""
    images = folder / "coco"
    if not images.is_dir():
        generate(images, images={"train": 20, "val": 4}, size=64)
    overrides = [f"data.root={images}", "data.train=train", "data.test=val", "data.held_out=4", "data.batch_size=8"]
    return [*overrides, "data.num_workers=0", "trainer=cpu", "model.vision.layers=1", "model.vision.image_size=64"]


def recipe_overrides(folder: Path, batch_size: int) -> list[str]:
    """COCO in Karpathy's layout, Visual Genome's own files, two flat JSON lists and a WordPiece vocabulary, for the recipes
    of four million images.  batch_size: of each of the four sources."""
    images = folder / "scenes"
    if not images.is_dir():
        generate(images, images=40, size=64)
        listed = json.loads((images / "dataset_coco.json").read_text())["images"]
        rows = [
            {"image": f"{image['filepath']}/{image['filename']}", "caption": image["sentences"][0]["raw"]}
            for image in listed
            if image["split"] == "train"
        ]
        (images / "pairs.json").write_text(json.dumps(rows))
        words = sorted({word for row in rows for word in re.findall(r"[a-z]+|[^a-z ]", row["caption"])})
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    overrides = [f"tokenizer.vocabulary={folder / 'vocab.txt'}", "trainer=cpu"]
    for source in ("coco", "visual_genome", "sbu", "cc3m"):
        overrides += [f"data.sources.{source}.batch_size={batch_size}", f"data.sources.{source}.eval_batch_size=8"]
        overrides += [f"data.sources.{source}.num_workers=0"]
    overrides += [f"data.sources.coco.root={images}", f"data.sources.visual_genome.root={images / 'visual_genome'}"]
    overrides += ["data.sources.visual_genome.images=..", "data.sources.visual_genome.held_out=4"]
    overrides += ["data.sources.visual_genome.exclude_coco=../dataset_coco.json"]
    overrides += ["data.sources.visual_genome.exclude_flickr=null"]
    for source in ("sbu", "cc3m"):
        overrides += [f"data.sources.{source}.root={images}", f"data.sources.{source}.files.train=pairs.json"]
    return overrides


def label_map_overrides(folder: Path, experiment: str) -> list[str]:
    """Photos and label maps of random classes in the layout of CamVid or ADE20K, and a small tower for the latter."""
    random = np.random.default_rng(0)
    ade20k = experiment == "ade20k_segmentation"
    splits = {"training": 12, "validation": 4} if ade20k else {"train": 8, "val": 2, "test": 2}
    for split, count in splits.items():
        photos, labels = (f"images/{split}", f"annotations/{split}") if ade20k else (split, f"{split}annot")
        for kind in (photos, labels):
            (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels, classes = random.integers(0, 256, (36, 48, 3)), random.integers(0, 12, (36, 48))
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(
                folder / photos / f"{split}_{number}.{'jpg' if ade20k else 'png'}"
            )
            PIL.Image.fromarray(classes.astype(np.uint8)).save(folder / labels / f"{split}_{number}.png")
    overrides = [f"data.root={folder}", "data.batch_size=4", "data.num_workers=0"]
    if not ade20k:
        return overrides
    rows = ["Idx\tRatio\tTrain\tVal\tName", *(f"{number}\t0\t0\t0\tclass {number}" for number in range(1, 151))]
    (folder / "objectInfo150.txt").write_text("\n".join(rows))
    overrides += ["data.held_out=4", "trainer=cpu", "model.vision.layers=2", "model.vision.image_size=64"]
    return [*overrides, "tasks.segmentation.levels=[blocks.0,blocks.1]", "tasks.segmentation.channels=8"]
