"""The embedded default: scenes drawn when they are first needed, then read as real data of their layouts.

`Scenes` has captions (Karpathy's layout) and what else each of them is true of, for matching; its val and test samples
also carry two choices, the right caption and one with two attributes exchanged (SugarCrepe's format), for the
compositionality task, and the words of their captions that the picture decides, for the cloze task; crowded scenes have
neither. Where asked, boxes and masks of all things come from COCO's files, with the shapes as categories, and segments of
all pixels from COCO's panoptic ones. `SceneQuestions` has VQA v2's questions about the same pictures, `SceneGenome` Visual
Genome's phrases or questions, `SceneReferences` RefCOCO's phrases, which name one thing each, `SceneDialogues` VisDial's
dialogues. Each draws what all read.

Pairs of a colour and a shape can be kept out of training in all of them alike: see vlp/datasets/common/scene_pairs.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_json
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError
from vlp.datasets.common.scene_pairs import PairChoice
from vlp.datasets.common.scene_regions import NAMES, read_scene_instances, read_scene_panoptic, with_segments
from vlp.datasets.karpathy import Karpathy
from vlp.datasets.refcoco import RefCOCO
from vlp.datasets.visdial import VisDial
from vlp.datasets.visual_genome import VisualGenome
from vlp.datasets.vqa_v2 import VQAv2
from vlp.scenes.formats import PARTS
from vlp.scenes.generate import generate, is_complete
from vlp.structures import Blank, Sample
from vlp.system.errors import UserError


def scene_folder(root: Path, *, images: Mapping[str, int], size: int, scene_seed: int, crowded: bool = False) -> Path:
    """root gets a folder for each choice of numbers, size and seed, and for crowded scenes."""
    numbers = "-".join(str(count) for count in images.values())
    return root / f"{'crowded-' if crowded else ''}{numbers}-{size}px-seed{scene_seed}"


def draw_scenes(
    folder: Path,
    *,
    images: Mapping[str, int],
    size: int,
    scene_seed: int,
    crowded: bool = False,
    additions: Sequence[str] = (),
) -> None:
    """additions: see vlp/scenes/additions.py; a folder that was drawn without them gets them."""
    request: dict[str, Any] = {"images": images, "size": size, "seed": scene_seed, "crowded": crowded}
    if not folder.exists():
        print(f"drawing {sum(images.values()):,} scenes into {folder}", file=sys.stderr)
    elif is_complete(folder, **request) and not is_complete(folder, **request, additions=additions):
        print(f"adding {' and '.join(additions)} to the scenes in {folder}", file=sys.stderr)
    generate(folder, **request, additions=additions)


class Scenes(Karpathy):
    """images: how many of each split.  size: of their sides in pixels.  scene_seed: of the scenes themselves, apart
    from the run's seed, so that runs of different seeds share their data.  crowded: see vlp/scenes/crowded.py.
    boxes, masks: of the things, whose classes are the shapes; boxes around crowds are marked.  panoptic: the segment of
    each pixel: things, the frame and the background.  names: of the classes: words = "circle"; synonyms = "disc", see
    `other_names`; pairs = a class for each colour and shape, "red circle".
    held_out_pairs: colours with shapes, such as "red star", that training must not see.  pairs: which val and test
    pictures are used: all, seen or unseen.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        crowded: bool = False,
        boxes: bool = False,
        masks: bool = False,
        panoptic: bool = False,
        names: str = "words",
        held_out_pairs: Sequence[str] | None = None,
        pairs: str = "all",
        **loading: Any,
    ) -> None:
        super().__init__(annotations="dataset_coco.json", images=".", restval=True, **loading)
        if masks and not boxes:
            raise UserError("data.masks=true gives masks to boxes: set data.boxes=true as well")
        if names not in NAMES:
            raise UserError(f"data.names={names!r}: choose {', '.join(NAMES)}")
        if names != "words" and not boxes and (names == "pairs" or not panoptic):
            raise UserError(f"data.names={names} names the classes of boxes: set data.boxes=true as well")
        self.boxes, self.masks, self.panoptic, self.names = boxes, masks, panoptic, names
        self.pair_choice = PairChoice.parse(held_out_pairs, pairs)
        self.drawn: dict[str, Any] = {
            "images": dict(images), "size": size, "scene_seed": scene_seed, "crowded": crowded
        }  # fmt: skip
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        wanted = {"panoptic": self.panoptic, "pairs": self.names == "pairs"}
        draw_scenes(self.root, **self.drawn, additions=[name for name, needed in wanted.items() if needed])

    def samples(self, split: str) -> list[Sample]:
        samples = self._with_texts(super().samples(split), split)
        if self.boxes:
            samples = self._with_boxes(samples, split)
        if self.panoptic:
            samples = self._with_segments(samples, split)
        with self.faults.catch_errors():
            return self.pair_choice.choose_pictures(samples, split, self.root)
        return samples

    def _with_texts(self, samples: list[Sample], split: str) -> list[Sample]:
        also_true = self._beside("also_true", split, what="what captions are also true of")
        exchanged, cloze = {}, {}
        evaluated = split != "train" and not self.drawn["crowded"]
        if evaluated:
            exchanged = self._beside("sugarcrepe", f"swap_{split}", what="the exchanged captions")
            exchanged = {pair["filename"]: pair for pair in exchanged.values()}
            cloze = self._beside("cloze", split, what="the words that pictures decide")
        found = []
        for sample in samples:
            with self.faults.catch_errors():
                name = sample.image.name
                if name not in also_true or (evaluated and not (name in exchanged and name in cloze)):
                    message = (
                        f"{self.root} lacks the other annotations of {name}; delete the folder and it is drawn again"
                    )
                    raise DataError("missing key", message)
                sample = replace(sample, also_true=tuple(map(tuple, also_true[name])))
                if evaluated:
                    pair = exchanged[name]
                    choices = (pair["caption"], pair["negative_caption"])
                    sample = replace(sample, choices=choices, label=0, blanks=tuple(_blanks(cloze[name])))
                found.append(sample)
        return found

    def _with_boxes(self, samples: list[Sample], split: str) -> list[Sample]:
        read = read_scene_instances(
            self.root, self._parts(split), names=self.names, masks=self.masks, faults=self.faults
        )
        self.class_names, self.category_ids = read.names or None, read.ids or None
        return [
            replace(
                sample,
                categories=tuple(sorted(read.category_indices.get(sample.id, ()))),
                **read.things[sample.id].sample_fields(),
            )
            for sample in samples
        ]

    def _with_segments(self, samples: list[Sample], split: str) -> list[Sample]:
        known = [sample.id for sample in samples]
        read = read_scene_panoptic(self.root, self._parts(split), known, names=self.names, faults=self.faults)
        self.segment_names, self.segment_ids, self.segment_things = read.names or None, read.ids, read.things
        segmented = []
        for sample in samples:
            with self.faults.catch_errors():
                segmented.append(with_segments(sample, read, self.root))
        return segmented

    def _parts(self, split: str) -> list[str]:
        """The folders that it is made of."""
        return [part for part in PARTS[split] if self.drawn["images"].get(part)]

    def ground_truth(self, split: str) -> Path:
        """By `names`: of shapes, or of pairs of a colour and a shape."""
        parts = self._parts(split)
        if len(parts) > 1:
            raise UserError(
                f"{split} of {self.name} is drawn as {' and '.join(parts)}, each with a file of instances of its own"
            )
        return self.root / NAMES[self.names] / f"instances_{(parts or PARTS[split])[0]}.json"

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


def _chosen_texts(data: DataModule, choice: PairChoice, samples: list[Sample], split: str) -> list[Sample]:
    with data.faults.catch_errors():
        return choice.choose_texts(samples, split, data.root)
    return samples


class SceneQuestions(VQAv2):
    """images, size, scene_seed, held_out_pairs, pairs: see Scenes.  The others: see VQAv2."""

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        held_out_pairs: Sequence[str] | None = None,
        pairs: str = "all",
        **loading: Any,
    ) -> None:
        splits = {split: [part for part in parts if part in images] for split, parts in PARTS.items()}
        super().__init__(splits=splits, images="{split}/COCO_{split}_{id:012d}.png", **loading)
        self.pair_choice = PairChoice.parse(held_out_pairs, pairs)
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)

    def samples(self, split: str) -> list[Sample]:
        return _chosen_texts(self, self.pair_choice, super().samples(split), split)


class SceneGenome(VisualGenome):
    """images, size, scene_seed, held_out_pairs, pairs: see Scenes, whose splits it has.  The others: see VisualGenome."""

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        held_out_pairs: Sequence[str] | None = None,
        pairs: str = "all",
        **loading: Any,
    ) -> None:
        super().__init__(annotations="visual_genome", images=".", **loading)
        self.pair_choice = PairChoice.parse(held_out_pairs, pairs)
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn)

    def samples(self, split: str) -> list[Sample]:
        samples = [sample for sample in self.all_samples() if Path(str(sample.image)).parent.name in PARTS[split]]
        return _chosen_texts(self, self.pair_choice, samples, split)


class SceneReferences(RefCOCO):
    """images, size, scene_seed, crowded, held_out_pairs, pairs: see Scenes.  The others: see RefCOCO."""

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        crowded: bool = False,
        held_out_pairs: Sequence[str] | None = None,
        pairs: str = "all",
        **loading: Any,
    ) -> None:
        super().__init__(folder="refcoco", refs="refs(unc).p", images=".", **loading)
        self.pair_choice = PairChoice.parse(held_out_pairs, pairs)
        self.drawn: dict[str, Any] = {
            "images": dict(images), "size": size, "scene_seed": scene_seed, "crowded": crowded
        }  # fmt: skip
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn, additions=("refcoco",))

    def samples(self, split: str) -> list[Sample]:
        return _chosen_texts(self, self.pair_choice, super().samples(split), split)


class SceneDialogues(VisDial):
    """images, size, scene_seed: see Scenes.  The others: see VisDial."""

    def __init__(self, *, images: Mapping[str, int], size: int = 64, scene_seed: int = 0, **loading: Any) -> None:
        parts = {split: [part for part in parts if part in images] for split, parts in PARTS.items()}
        super().__init__(
            dialogues={split: [f"visdial/visdial_1.0_{part}.json" for part in of] for split, of in parts.items()},
            relevance={
                split: [f"visdial/visdial_1.0_{part}_dense_annotations.json" for part in of]
                for split, of in parts.items()
            },
            images={split: [f"{part}/COCO_{part}_{{id:012d}}.png" for part in of] for split, of in parts.items()},
            **loading,
        )
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "scene_seed": scene_seed}
        self.root = scene_folder(self.root, **self.drawn)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn, additions=("visdial",))
