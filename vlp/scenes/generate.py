"""Generate the data set "scenes": images and every official annotation file, in one folder.

    {train,restval,val,test}/COCO_{split}_{id:012d}.png     annotations/{captions,instances}_{split}.json
    dataset_coco.json (Karpathy)     vqa/v2_{OpenEnded_mscoco_{split}_questions,mscoco_{split}_annotations}.json
    visual_genome/*.json     flickr/Flickr8k.token.txt, Flickr_8k.*Images.txt (names relative to the root)
    sugarcrepe/swap_{split}.json     cloze/{val,test}.json     also_true/{train,val,test}.json     README.md     manifest.json

Only where they are asked for, at once or later (see vlp/scenes/additions.py):

    refcoco/{refs(unc).p,instances.json}     annotations/panoptic_{split}.json     annotations/panoptic_{split}/*.png
    pairs/instances_{split}.json (COCO's, categories such as "red star")     visdial/*.json (not of crowded scenes)

Crowded scenes have COCO's, Karpathy's and Flickr's files, also_true, things/{split}.json, and the same additions.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlp.scenes import files, formats
from vlp.scenes.additions import ADDITIONS, CROWDED_ADDITIONS, Drawing, add, has_addition
from vlp.scenes.blanks import find_blanks
from vlp.scenes.crowded import find_crowds, sample_crowded_scene
from vlp.scenes.crowded_captions import write_crowded_captions
from vlp.scenes.draw import draw_layers, draw_scene
from vlp.scenes.formats import Described, ImageRecord
from vlp.scenes.grammar import swap_colours, write_captions
from vlp.scenes.picture import SPLITS, mark_things
from vlp.scenes.questions import write_questions
from vlp.scenes.scene import sample_scene
from vlp.system.errors import UserError

SMALLEST = {False: 32, True: 96}  # pixels, by whether scenes are crowded; below, small rings have no hole
FIRST_ID = {False: 1, True: 100_000_001}
README = """# Generated scenes
Drawn by `vlp scenes`, from nothing but a seed (see manifest.json). CC0 1.0: no rights reserved.
Files have the layouts of COCO, Karpathy's split, VQA v2, Visual Genome v1.2, Flickr8k and SugarCrepe.
Visual Genome's files cover all splits; leave out validation and test images by their coco_id.
Where they were asked for (additions/*.json): refcoco/ has RefCOCO's files, with circles and squares as testA and all other
things as testB; annotations/panoptic_* is COCO's panoptic format, with the background (92) and the frame (95) as stuff;
pairs/ has the instances again, by pairs of a colour and a shape; visdial/ has VisDial's files, with answers to all rounds.
"""
CROWDED_README = """# Generated crowded scenes
Drawn by `vlp scenes --crowded`, from nothing but a seed (see manifest.json). CC0 1.0: no rights reserved.
Files have the layouts of COCO, Karpathy's split and Flickr8k. 4 to 12 things hide parts of each other; one picture in ten
has none. Masks, areas and boxes are those of what is visible, which is about two fifths of each thing at least.
Five or more things of one shape that touch are one annotation with iscrowd = 1; others have one each.
Where they were asked for (additions/*.json): refcoco/ has RefCOCO's files, with circles and squares as testA and all other
things as testB; annotations/panoptic_* is COCO's panoptic format, with the background (92) and the frame (95) as stuff;
pairs/ has the instances again, by pairs of a colour and a shape.
"""


def generate(
    out: Path,
    *,
    images: int | Mapping[str, int],
    size: int = 64,
    seed: int = 0,
    crowded: bool = False,
    additions: Iterable[str] = (),
) -> None:
    """images: how many of each split (see SPLITS), or in all: then seven tenths train, a tenth each of the others.
    additions: of ADDITIONS; those that a finished set lacks are added to it.

    Returns at once where `out` holds exactly this. Raises FileExistsError where it holds anything else.
    """
    counts, additions = split_counts(images), tuple(additions)
    choices = CROWDED_ADDITIONS if crowded else ADDITIONS
    if unknown := set(additions) - set(choices):
        kind = " of crowded scenes" if crowded else ""
        raise UserError(f"additions={sorted(unknown)}{kind}: choose from {', '.join(choices)}")
    if size < SMALLEST[crowded]:
        kind = "crowded scenes" if crowded else "scenes"
        raise UserError(
            f"{kind} of {size} pixels are too small to show their shapes; choose a size of at least {SMALLEST[crowded]}"
        )
    request: dict[str, Any] = {"images": counts, "size": size, "seed": seed, "crowded": crowded}
    if not is_complete(out, **request):
        write_folder(out, partial(write_scenes, **request), partial(is_complete, **request))
    for name in additions:
        add(out, name, partial(draw_all, **request))


def write_folder(out: Path, write: Callable[[Path], None], is_complete: Callable[[Path], bool]) -> None:
    """Writes beside the target, and renames at the end.  Raises FileExistsError where `out` holds anything."""
    refuse_other_files(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        write(part)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        try:
            part.rename(out)
        except OSError:  # another process was first
            if not is_complete(out):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_complete(
    out: Path,
    *,
    images: int | Mapping[str, int],
    size: int,
    seed: int,
    crowded: bool = False,
    additions: Iterable[str] = (),
) -> bool:
    """Whether `out` holds a finished set of just this kind, with no file missing."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    request = {"version": formats.VERSION, "seed": seed, "size": size, "images": split_counts(images)}
    if any(manifest.get(key) != value for key, value in request.items()) or manifest.get("crowded", False) != crowded:
        return False
    return (
        all((out / name).is_file() for name in manifest["sha256"])
        and all(sum(1 for _ in (out / split).glob("*.png")) == count for split, count in manifest["images"].items())
        and all(has_addition(out, name) for name in additions)
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


def write_scenes(root: Path, *, images: Mapping[str, int], size: int, seed: int, crowded: bool = False) -> None:
    digests: dict[str, str] = {}

    def save(name: str, content: Any) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        digests[name] = hashlib.sha256(text.encode()).hexdigest()

    records: list[Any] = []
    describe: Callable[..., tuple[Any, np.ndarray]] = describe_crowded_scene if crowded else describe_scene
    pixels = hashlib.sha256()
    for split, count in images.items():
        (root / split).mkdir(parents=True)
        drawn: list[Any] = []
        for index in range(count):
            record, image = describe(seed=seed, split=split, index=index, size=size)
            pixels.update(image.tobytes())
            Image.fromarray(image).save(root / split / record.file, compress_level=1)
            drawn.append(record)
        for name, content in (files.crowded_files_of_split if crowded else files.files_of_split)(drawn, split):
            save(name, content)
        records += drawn
    for name, content in (files.crowded_files_of_all if crowded else files.files_of_all)(records):
        save(name, content)
    save("README.md", CROWDED_README if crowded else README)
    manifest = {
        "version": formats.VERSION,
        "seed": seed,
        "size": size,
        "images": dict(images),
        "licence": formats.LICENCE,
    }
    manifest |= {"crowded": True} if crowded else {}
    manifest |= {"pixels_sha256": pixels.hexdigest(), "sha256": digests}
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1))


def draw_all(*, images: Mapping[str, int], size: int, seed: int, crowded: bool = False) -> Iterator[Drawing]:
    """Every scene, split by split: its picture, its pixels uint8 [size, size, 3], and the masks of its things."""
    draw = draw_crowded_scene if crowded else draw_default_scene
    for split, count in images.items():
        for index in range(count):
            yield draw(seed=seed, split=split, index=index, size=size)


def draw_default_scene(*, seed: int, split: str, index: int, size: int) -> Drawing:
    scene = sample_scene(seed=seed, split=split, index=index)
    image, masks = draw_scene(scene, size)
    members = tuple((position,) for position in range(len(masks)))
    return mark_things(scene, masks, members, number=FIRST_ID[False] + index, split=split, size=size), image, masks


def draw_crowded_scene(*, seed: int, split: str, index: int, size: int) -> Drawing:
    scene = sample_crowded_scene(seed=seed, split=split, index=index)
    image, masks = draw_layers(scene, size)
    members = find_crowds(scene.things)
    return mark_things(scene, masks, members, number=FIRST_ID[True] + index, split=split, size=size), image, masks


def describe_scene(*, seed: int, split: str, index: int, size: int) -> tuple[ImageRecord, np.ndarray]:
    """One scene with all that is said about it, and its pixels uint8 [size, size, 3]."""
    picture, image, _ = draw_default_scene(seed=seed, split=split, index=index, size=size)
    scene = picture.scene
    rng = random.Random(f"{seed}/{split}/{index}/words")
    texts = write_captions(rng, scene)
    negative = swap_colours(scene, texts[0])
    assert negative is not None, "the first two groups differ in colour and in shape, so exchanging colours is false"
    record = ImageRecord(
        **vars(picture), captions=tuple(texts), swapped=negative,
        blanks=tuple(tuple(find_blanks(scene, text)) for text in texts),
        questions=tuple(write_questions(rng, scene)),
    )  # fmt: skip
    return record, image


def describe_crowded_scene(*, seed: int, split: str, index: int, size: int) -> tuple[Described, np.ndarray]:
    picture, image, _ = draw_crowded_scene(seed=seed, split=split, index=index, size=size)
    rng = random.Random(f"crowded/{seed}/{split}/{index}/words")
    return Described(**vars(picture), captions=tuple(write_crowded_captions(rng, picture.scene))), image
