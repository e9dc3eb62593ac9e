"""Generate the data set "scenes": images and every official annotation file, in one folder.

    {train,restval,val,test}/COCO_{split}_{id:012d}.png     annotations/{captions,instances}_{split}.json
    dataset_coco.json (Karpathy)     vqa/v2_{OpenEnded_mscoco_{split}_questions,mscoco_{split}_annotations}.json
    visual_genome/*.json     flickr/Flickr8k.token.txt, Flickr_8k.*Images.txt (names relative to the root)
    sugarcrepe/swap_{split}.json     cloze/{val,test}.json     also_true/{train,val,test}.json     README.md     manifest.json

PNG, for pixels under a mask are then exactly those that were drawn, and flat scenes are as small as in JPEG. Image i of
a split depends only on (seed, split, i): a larger set begins with the smaller one. Everything is written to a folder
beside the target and renamed at the end; manifest.json is what says that a folder is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlp.scenes import formats
from vlp.scenes.blanks import find_blanks
from vlp.scenes.draw import bounding_box, draw_scene, encode_mask_rle
from vlp.scenes.formats import SPLITS, ImageRecord
from vlp.scenes.grammar import swap_colours, write_captions
from vlp.scenes.questions import write_questions
from vlp.scenes.scene import sample_scene
from vlp.system.errors import UserError

SMALLEST = 32  # pixels; below, small rings have no hole
README = """# Generated scenes
Drawn by `vlp scenes`, from nothing but a seed (see manifest.json). CC0 1.0: no rights reserved.
Files have the layouts of COCO, Karpathy's split, VQA v2, Visual Genome v1.2, Flickr8k and SugarCrepe.
Visual Genome's files cover all splits; leave out validation and test images by their coco_id.
"""


def generate(out: Path, *, images: int | Mapping[str, int], size: int = 64, seed: int = 0) -> None:
    """images: how many of each split (see SPLITS), or in all: then seven tenths train, a tenth each of the others.

    Returns at once where `out` holds exactly this. Raises FileExistsError where it holds anything else.
    """
    counts = split_counts(images)
    if size < SMALLEST:
        raise UserError(
            f"scenes of {size} pixels are too small to show their shapes; choose a size of at least {SMALLEST}"
        )
    if is_complete(out, images=counts, size=size, seed=seed):
        return
    refuse_other_files(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_scenes(part, counts=counts, size=size, seed=seed)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        try:
            part.rename(out)
        except OSError:  # another process was first
            if not is_complete(out, images=counts, size=size, seed=seed):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_complete(out: Path, *, images: int | Mapping[str, int], size: int, seed: int) -> bool:
    """Whether `out` holds a finished set of just this kind, with no file missing."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    request = {"version": formats.VERSION, "seed": seed, "size": size, "images": split_counts(images)}
    if any(manifest.get(key) != value for key, value in request.items()):
        return False
    return all((out / name).is_file() for name in manifest["sha256"]) and all(
        sum(1 for _ in (out / split).glob("*.png")) == count for split, count in manifest["images"].items()
    )


def split_counts(images: int | Mapping[str, int]) -> dict[str, int]:
    if isinstance(images, int):
        tenth = max(1, images // 10)
        images = {"train": images - 3 * tenth, "restval": tenth, "val": tenth, "test": tenth}
    unknown = set(images) - set(SPLITS)
    if unknown or any(count < 1 for count in images.values()) or not images:
        raise UserError(
            f"images={dict(images)}: give numbers above 0 for some of {', '.join(SPLITS)}, or at least 4 in all"
        )
    return {split: images[split] for split in SPLITS if split in images}


def refuse_other_files(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{out} holds something other than the wanted scenes (another size, seed, number or version, or files "
            "of your own); delete it or name another folder"
        )


def write_scenes(root: Path, *, counts: Mapping[str, int], size: int, seed: int) -> None:
    digests: dict[str, str] = {}

    def save(name: str, content: Any) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        digests[name] = hashlib.sha256(text.encode()).hexdigest()

    records: list[ImageRecord] = []
    pixels = hashlib.sha256()
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        drawn = []
        for index in range(count):
            record, image = describe_scene(seed=seed, split=split, index=index, size=size)
            pixels.update(image.tobytes())
            Image.fromarray(image).save(root / split / record.file, compress_level=1)
            drawn.append(record)
        save(f"annotations/captions_{split}.json", formats.coco_captions(drawn))
        save(f"annotations/instances_{split}.json", formats.coco_instances(drawn))
        asked, answered = formats.vqa(drawn, split)
        save(f"vqa/v2_OpenEnded_mscoco_{split}_questions.json", asked)
        save(f"vqa/v2_mscoco_{split}_annotations.json", answered)
        save(f"sugarcrepe/swap_{split}.json", formats.sugarcrepe(drawn))
        if split in ("val", "test"):  # what only evaluation asks for
            save(f"cloze/{split}.json", formats.cloze(drawn))
        records += drawn
    for split, parts in formats.PARTS.items():
        save(f"also_true/{split}.json", formats.also_true([r for r in records if r.split in parts]))
    save("dataset_coco.json", formats.karpathy(records))
    for name, content in formats.visual_genome(records).items():
        save(f"visual_genome/{name}.json", content)
    for name, text in formats.flickr(records).items():
        save(f"flickr/{name}", text)
    save("README.md", README)
    manifest = {
        "version": formats.VERSION,
        "seed": seed,
        "size": size,
        "images": dict(counts),
        "licence": formats.LICENCE,
    }
    manifest |= {"pixels_sha256": pixels.hexdigest(), "sha256": digests}
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1))


def describe_scene(*, seed: int, split: str, index: int, size: int) -> tuple[ImageRecord, np.ndarray]:
    """One scene with all that is said about it, and its pixels uint8 [size, size, 3]."""
    scene = sample_scene(seed=seed, split=split, index=index)
    image, masks = draw_scene(scene, size)
    rng = random.Random(f"{seed}/{split}/{index}/words")
    texts = write_captions(rng, scene)
    negative = swap_colours(scene, texts[0])
    assert negative is not None, "the first two groups differ in colour and in shape, so exchanging colours is false"
    number = SPLITS.index(split) * 10_000_000 + index + 1
    record = ImageRecord(
        id=number, split=split, file=f"COCO_{split}_{number:012d}.png", size=size, scene=scene,
        boxes=tuple(bounding_box(mask) for mask in masks), masks=tuple(encode_mask_rle(mask) for mask in masks),
        areas=tuple(int(mask.sum()) for mask in masks), captions=tuple(texts), swapped=negative,
        blanks=tuple(tuple(find_blanks(scene, text)) for text in texts),
        questions=tuple(write_questions(rng, scene)),
    )  # fmt: skip
    return record, image
