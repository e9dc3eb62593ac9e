"""Generated visual commonsense reasoning: drawn when it is first needed, then read as VCR's own files are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_json
from vlp.datasets.common.tagged_texts import write_text
from vlp.datasets.vcr import VCRFiles
from vlp.scenes.vcr.generate import MIXED, generate_vcr
from vlp.scenes.vcr.rows import OBJECT
from vlp.scenes.vcr.templates import Spec, describe_fully
from vlp.structures import Sample
from vlp.system.errors import UserError

RATIONALES = ("agreeing", "mixed")


class SceneVCR(VCRFiles):
    """images: how many questions of each split, each with a picture of its own.  size: of the pictures' sides in pixels.
    scene_seed: of the questions and scenes, apart from the run's seed.  rationales: agreeing = the wrong ones name the same things
    and properties as the true one, and lead to the same answer; mixed = val and test have wrong ones of other kinds too, of which
    words exclude some (`vlp.scenes.vcr.rows.mixed_rationales`); train is the same.  descriptions: whether each thing that the texts
    of a training question name has a caption that says what it is.  The others: see VCRFiles.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        rationales: str = "agreeing",
        descriptions: bool = False,
        **loading: Any,
    ) -> None:
        splits = {split: split for split in images}
        super().__init__(splits=splits, people=(OBJECT,), palette="scenes", **loading)
        if rationales not in RATIONALES:
            raise UserError(f"data.rationales={rationales!r}: choose {' or '.join(RATIONALES)}")
        self.rationales, self.descriptions = rationales, descriptions
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "seed": scene_seed}
        numbers = "-".join(str(count) for count in images.values())
        self.root: Path = self.root / f"{numbers}-{size}px-seed{scene_seed}"

    def prepare_data(self) -> None:
        if not self.root.exists():
            print(f"drawing {sum(self.drawn['images'].values()):,} questions into {self.root}", file=sys.stderr)
        generate_vcr(self.root, **self.drawn)

    def train_captions_of(self, sample: Sample, metadata: Path) -> tuple[str, ...]:
        """Also "Riley is a large red ring at the top left." for each thing that a text names."""
        captions = super().train_captions_of(sample, metadata)
        if not self.descriptions:
            return captions
        things = [
            Spec(**thing | {"cell": tuple(thing["cell"])})
            for thing in read_json(metadata, description=f"the things of {metadata.stem}")["things"]
        ]
        objects = [OBJECT] * len(things)
        named = sorted({number for tag in sample.tags for number in tag.boxes})
        described = ([[number], *describe_fully(things[number])] for number in named)
        return captions + tuple(write_text(tokens, objects, (OBJECT,), text=0)[0] for tokens in described)

    def annotation_path(self, split: str) -> Path:
        mixed = self.rationales == "mixed" and split in MIXED
        return self.root / "mixed" / f"{split}.jsonl" if mixed else super().annotation_path(split)
