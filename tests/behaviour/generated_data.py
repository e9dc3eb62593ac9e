"""Overrides that run an experiment on generated scenes, in the layout that it reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from vlp.build import build
from vlp.checkpoints import load
from vlp.checkpoints.checkpoint import Checkpoint, eval_transform
from vlp.scenes.generate import generate
from vlp.tokenizers.trained import TrainedTokenizer

VOC_BOXES = ("bccd",)
LABEL_MAPS = ("camvid", "ade20k_segmentation")
DETECTORS = ("coco_detection", "owlv2_coco")  # on COCO's files
SCENES_DATA = {
    "dialogue_scenes": "scenes_dialogue",
    "flickr8k_scratch": "scenes",
    "grounding_scenes": "scene_phrases",
    "detection_scenes_phrases": "scene_phrases",
    "label_lora": "scenes_classes",
    "translation_scenes": "scenes_translation",
    "vcr_scenes": "scenes_vcr",
}  # instead of the experiment's own data
RECIPES = ("pretrain_4m_albef", "pretrain_4m_vilt")
MIXTURES = ("encoder_decoder_scenes", "seed_pretrain")
TAUGHT = ("distill_scenes",)  # experiments that learn from a teacher
EVALUATIONS = ("label_efficiency",)  # experiments of evaluate.py, which have no step; documented commands run them
Counts = Mapping[str, int]


def scenes_overrides(folder: Path, images: Counts) -> list[str]:
    return [f"data.root={folder}", *(f"data.images.{split}={count}" for split, count in images.items())]


def mixture_overrides(folder: Path, images: Counts) -> list[str]:
    prefix = "data.sources.scenes"
    return [f"{prefix}.root={folder}", *(f"{prefix}.images.{split}={count}" for split, count in images.items())]


def teacher_overrides(folder: Path) -> list[str]:
    """A CLIP of one layer, of random weights, as the teacher."""
    path = folder / "teacher.ckpt"
    if not path.exists():
        tokenizer = TrainedTokenizer(size=300, context_length=77)
        tokenizer.train(["a large red circle above the blue square"])
        towers = "vlp.models"
        vision = {"_target_": f"{towers}.vision.clip_vit.ClipVit", "image_size": 32, "patch_size": 16}
        text = {"_target_": f"{towers}.text.clip_text.ClipText", "vocabulary_size": 300, "context_length": 77}
        size = {"width": 16, "layers": 1, "heads": 2}
        projection = {"_target_": f"{towers}.projection.linear.LinearProjection", "_partial_": True, "width": 24}
        model = {"_target_": f"{towers}.vlm.VisionLanguageModel", "vision": vision | size, "text": text | size}
        model["projection"] = projection
        torch.manual_seed(0)
        state = dict(build(model).state_dict())
        config = {"model": model, "transform": eval_transform(32)}
        load.save(Checkpoint(config=config, state=state, tokenizer_json=tokenizer.to_json()), path)
    return [f"teachers={{large: {path}}}"]


def coco_overrides(folder: Path) -> list[str]:
    """COCO's instances and photos, and a tower of one layer for small photos."""
    images = folder / "coco"
    if not images.is_dir():
        generate(images, images={"train": 20, "val": 4}, size=64)
    overrides = [f"data.root={images}", "data.train=train", "data.test=val", "data.held_out=4", "data.batch_size=8"]
    return [*overrides, "data.num_workers=0", "trainer=cpu", "model.vision.layers=1", "model.vision.image_size=64"]


def multi30k_overrides(folder: Path) -> list[str]:
    """Multi30k's official layout, with a photo of every second line, named as Flickr8k's are."""
    for name in ("task1/raw", "task1/image_splits", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    first = 1
    for split, count in (("train", 8), ("val", 4), ("test_2016_flickr", 4)):
        numbers = range(first, first + count)
        first += count
        for language, words in (("en", "A dog number {}."), ("de", "Ein Hund Nummer {}.")):
            lines = "".join(words.format(number) + "\n" for number in numbers)
            (folder / f"task1/raw/{split}.{language}").write_text(lines)
        names = "".join(f"{number}.jpg\n" for number in numbers)
        (folder / f"task1/image_splits/{split}.txt").write_text(names)
        for number in numbers[::2]:
            PIL.Image.new("RGB", (40, 30), (10 * number, 0, 0)).save(folder / f"photos/{number}_0123456789.jpg")
    return [f"data.root={folder}", f"data.photos={folder / 'photos'}", "data.batch_size=4", "tokenizer.size=300"]


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
    for split, count in splits.items() if not folder.is_dir() else ():
        photos, labels = (f"images/{split}", f"annotations/{split}") if ade20k else (split, f"{split}annot")
        for kind in (photos, labels):
            (folder / kind).mkdir(parents=True, exist_ok=True)
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


def voc_overrides(folder: Path) -> list[str]:
    """Photos and boxes of random cells in the layout of BCCD."""
    random = np.random.default_rng(0)
    for kind in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for split, count in {"train": 8, "val": 2, "test": 2}.items():
        names = [f"{split}_{number}" for number in range(count)]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pixels = random.integers(0, 256, (36, 48, 3)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
            things = ""
            for kind in random.choice(["RBC", "WBC", "Platelets"], 3):
                left, top = random.integers(1, 30), random.integers(1, 20)
                corners = {"xmin": left, "ymin": top, "xmax": left + 12, "ymax": top + 10}
                box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
                things += f"<object><name>{kind}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
            size = "<size><width>48</width><height>36</height><depth>3</depth></size>"
            (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{things}</annotation>")
    return [f"data.root={folder}", "data.batch_size=4", "data.num_workers=0"]
