"""The embedded default: scenes drawn when they are first needed, then read as any data in Karpathy's layout.

val and test samples also carry two choices, the right caption and one with two attributes exchanged (SugarCrepe's
format), for the compositionality task.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlp.data.files import read_json
from vlp.data.generate.write import generate
from vlp.data.karpathy import Karpathy
from vlp.structures import Sample


class Scenes(Karpathy):
    """images: how many of each split.  size: of their sides in pixels.  scene_seed: of the scenes themselves, apart
    from the run's seed, so that runs of different seeds share their data. root gets a folder for each such choice.
    """

    def __init__(self, *, images: Mapping[str, int], size: int = 64, scene_seed: int = 0, **loading: Any) -> None:
        super().__init__(annotations="dataset_coco.json", images=".", restval=True, **loading)
        self.counts, self.size, self.scene_seed = dict(images), size, scene_seed
        numbers = "-".join(str(count) for count in self.counts.values())
        self.root = self.root / f"{numbers}-{size}px-seed{scene_seed}"

    def prepare_data(self) -> None:
        if not self.root.exists():
            print(f"drawing {sum(self.counts.values()):,} scenes into {self.root}", file=sys.stderr)
        generate(self.root, images=self.counts, size=self.size, seed=self.scene_seed)

    def samples(self, split: str) -> list[Sample]:
        samples = super().samples(split)
        if split == "train":
            return samples
        path = self.root / "sugarcrepe" / f"swap_{split}.json"
        pairs = {pair["filename"]: pair for pair in read_json(path, what="the exchanged captions").values()}
        lacking = next((sample.image for sample in samples if sample.image.name not in pairs), None)
        if lacking is not None:
            raise ValueError(f"{path} has no pair of captions for {lacking.name}; delete {self.root} to draw it anew")
        chosen = [pairs[sample.image.name] for sample in samples]
        return [
            replace(sample, choices=(pair["caption"], pair["negative_caption"]), label=0)
            for sample, pair in zip(samples, chosen, strict=True)
        ]
