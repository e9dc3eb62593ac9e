"""Generated visual commonsense reasoning: drawn when it is first needed, then read as VCR's own files are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlp.datasets.vcr import VCRFiles
from vlp.scenes.vcr.generate import MIXED, generate_vcr
from vlp.scenes.vcr.rows import OBJECT
from vlp.system.errors import UserError

RATIONALES = ("agreeing", "mixed")


class SceneVCR(VCRFiles):
    """images: how many questions of each split, each with a picture of its own.  size: of the pictures' sides in pixels.
    scene_seed: of the questions and scenes, apart from the run's seed.  rationales: agreeing = the wrong ones name the same things
    and properties as the true one, and lead to the same answer; mixed = val and test have wrong ones of other kinds too, of which
    words exclude some (`vlp.scenes.vcr.rows.mixed_rationales`); train is the same.  The others: see VCRFiles.
    """

    def __init__(
        self,
        *,
        images: Mapping[str, int],
        size: int = 64,
        scene_seed: int = 0,
        rationales: str = "agreeing",
        **loading: Any,
    ) -> None:
        splits = {split: split for split in images}
        super().__init__(splits=splits, people=(OBJECT,), palette="scenes", **loading)
        if rationales not in RATIONALES:
            raise UserError(f"data.rationales={rationales!r}: choose {' or '.join(RATIONALES)}")
        self.rationales = rationales
        self.drawn: dict[str, Any] = {"images": dict(images), "size": size, "seed": scene_seed}
        numbers = "-".join(str(count) for count in images.values())
        self.root: Path = self.root / f"{numbers}-{size}px-seed{scene_seed}"

    def prepare_data(self) -> None:
        if not self.root.exists():
            print(f"drawing {sum(self.drawn['images'].values()):,} questions into {self.root}", file=sys.stderr)
        generate_vcr(self.root, **self.drawn)

    def annotation_path(self, split: str) -> Path:
        mixed = self.rationales == "mixed" and split in MIXED
        return self.root / "mixed" / f"{split}.jsonl" if mixed else super().annotation_path(split)
