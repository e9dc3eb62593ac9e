"""The embedded default: scenes drawn when they are first needed, then read as real data of their layouts.

`Scenes` has captions (Karpathy's layout) and what else each of them is true of, for matching; its val and test samples
also carry two choices, the right caption and one with two attributes exchanged (SugarCrepe's format), for the
compositionality task, and the words of their captions that the picture decides, for the cloze task. Where asked, boxes and
masks of all things come from COCO's files, with the shapes as categories. `SceneQuestions` has
VQA v2's questions about the same pictures, `SceneGenome` Visual Genome's phrases or questions. Each draws what all read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_json
from vlp.data.boxes import photo_size
from vlp.data.issues import DataError
from vlp.datasets.common.coco_instances import Instances, list_images, parse_instances
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.visual_genome import VisualGenome
from vlp.datasets.vqa_v2 import VQAv2
from vlp.scenes.formats import PARTS
from vlp.scenes.generate import generate
from vlp.structures import Blank, Sample
from vlp.system.errors import UserError


def scene_folder(root: Path, *, images: Mapping[str, int], size: int, scene_seed: int) -> Path:
    """root gets a folder for each choice of numbers, size and seed."""
    numbers = "-".join(str(count) for count in images.values())
    return root / f"{numbers}-{size}px-seed{scene_seed}"


def draw_scenes(folder: Path, *, images: Mapping[str, int], size: int, scene_seed: int) -> None:
    if not folder.exists():
        print(f"drawing {sum(images.values()):,} scenes into {folder}", file=sys.stderr)
    generate(folder, images=images, size=size, seed=scene_seed)


class Scenes(Karpathy):
    """images: how many of each split.  size: of their sides in pixels.  scene_seed: of the scenes themselves, apart
    from the run's seed, so that runs of different seeds share their data.  boxes, masks: of the things, whose classes are
    the shapes.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        boxes: bool = False,
        masks: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(annotations="dataset_coco.json", images=".", restval=True, **loading)
        if masks and not boxes:
            raise UserError("data.masks=true gives masks to boxes: set data.boxes=true as well")
        self.boxes, self.masks = boxes, masks
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)

    def samples(self, split: str) -> list[Sample]:
        also_true = self._beside("also_true", split, what="what captions are also true of")
        exchanged, cloze = {}, {}
        if split != "train":
            exchanged = self._beside("sugarcrepe", f"swap_{split}", what="the exchanged captions")
            exchanged = {pair["filename"]: pair for pair in exchanged.values()}
            cloze = self._beside("cloze", split, what="the words that pictures decide")
        found = []
        instances = self._instances(split) if self.boxes else None
        for sample in super().samples(split):
            with self.faults.catch_errors():
                name = sample.image.name
                if name not in also_true or (split != "train" and not (name in exchanged and name in cloze)):
                    message = (
                        f"{self.root} lacks the other annotations of {name}; delete the folder and it is drawn again"
                    )
                    raise DataError("missing key", message)
                sample = replace(sample, also_true=tuple(map(tuple, also_true[name])))
                if split != "train":
                    pair = exchanged[name]
                    choices = (pair["caption"], pair["negative_caption"])
                    sample = replace(sample, choices=choices, label=0, blanks=tuple(_blanks(cloze[name])))
                if instances is not None:
                    seen = tuple(sorted(instances.category_indices.get(sample.id, ())))
                    sample = replace(sample, categories=seen, **instances.things[sample.id].sample_fields())
                found.append(sample)
        return found

    def ground_truth(self, split: str) -> Path:
        parts = [part for part in PARTS[split] if self.drawn["images"].get(part)]
        if len(parts) > 1:
            raise UserError(
                f"{split} of {self.name} is drawn as {' and '.join(parts)}, each with a file of instances of its own"
            )
        return self.root / "annotations" / f"instances_{(parts or PARTS[split])[0]}.json"

    def _instances(self, split: str) -> Instances:
        found = Instances()
        for part in (part for part in PARTS[split] if self.drawn["images"].get(part)):
            path, content, images = self.root / "annotations" / f"instances_{part}.json", None, {}
            with self.faults.catch_errors():
                content = read_json(path, description="the instances of scenes")
                images = list_images(content, place=path, faults=self.faults)
            if content is not None:
                sizes = {image: photo_size(record) for image, record in images.items()}
                read = parse_instances(content, path, sizes, boxes=True, masks=self.masks, faults=self.faults)
                found.category_indices |= read.category_indices
                found.things |= read.things
                self.class_names, self.category_ids = read.names or None, read.ids or None
        return found

    def _beside(self, folder: str, name: str, *, what: str) -> dict[str, Any]:
        path = self.root / folder / f"{name}.json"
        with self.faults.catch_errors():
            content = read_json(path, description=what)
            if not isinstance(content, dict):
                raise DataError("unexpected structure", f"{path}: expected an object with an entry for each image")
            return content
        return {}


def _blanks(captions: list[list[dict[str, Any]]]) -> Iterator[Blank]:
    for index, found in enumerate(captions):
        for blank in found:
            yield Blank(caption=index, **blank | {"words": tuple(blank["words"])})


class SceneQuestions(VQAv2):
    """images, size, scene_seed: see Scenes.  The others: see VQAv2."""

    def __init__(self, *, images: Mapping[str, int], size: int = 64, scene_seed: int = 0, **loading: Any) -> None:
        splits = {split: [part for part in parts if part in images] for split, parts in PARTS.items()}
        super().__init__(splits=splits, images="{split}/COCO_{split}_{id:012d}.png", **loading)
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)


class SceneGenome(VisualGenome):
    """images, size, scene_seed: see Scenes, whose splits it has.  The others: see VisualGenome."""

    def __init__(self, *, images: Mapping[str, int], size: int = 64, scene_seed: int = 0, **loading: Any) -> None:
        super().__init__(annotations="visual_genome", images=".", **loading)
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)

    def samples(self, split: str) -> list[Sample]:
        return [sample for sample in self.all_samples() if Path(str(sample.image)).parent.name in PARTS[split]]
