"""Generated scenes with phrases that name one thing each, and its box: for grounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import require_path
from vlp.datasets.scenes import SceneGenome
from vlp.scenes.formats import PARTS, PREDICATES
from vlp.structures import Sample


class ScenePhrases(SceneGenome):
    """Of Visual Genome's regions (vlp/datasets/visual_genome.py) those of single things: "a large plain red square". A phrase that
    relates two things has a box around both, and one that fits two things of its picture names neither: they are left out.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(content="regions", boxes=True, **settings)

    def ground_truth(self, split: str) -> Path:
        """All things of the split's pictures."""
        (part,) = PARTS[split][:1]
        return require_path(
            self.root / f"annotations/instances_{part}.json", description=f"the instances of {self.name}"
        )

    def _phrases(self, photo: Any, records: list[dict[str, Any]], *arguments: Any, **keywords: Any) -> Iterable[Sample]:
        count = Counter(str(record.get("phrase")) for record in records)
        single = [
            record for record in records
            if count[phrase := str(record.get("phrase"))] == 1
            and not any(f" {relation} " in phrase for relation in PREDICATES.values())
        ]  # fmt: skip
        return super()._phrases(photo, single, *arguments, **keywords) if single else []
