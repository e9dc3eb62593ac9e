"""Generated scenes with phrases that name one thing each, and its box: for grounding, and for detectors that ask for phrases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import require_path
from vlp.data.boxes import Corners
from vlp.data.issues import DataError
from vlp.datasets.common.scene_regions import NAMES, read_scene_instances
from vlp.datasets.scenes import SceneGenome, draw_scenes
from vlp.scenes.formats import NAMING_ATTRIBUTES, PARTS, PREDICATES
from vlp.scenes.grammar import Mention
from vlp.structures import Sample
from vlp.system.errors import UserError


class ScenePhrases(SceneGenome):
    """Of Visual Genome's regions (vlp/datasets/visual_genome.py) those of single things: "a large plain red square". A phrase that
    relates two things has a box around both: it is left out.

    several: whether a phrase that fits several things of its picture is there, with the box of each; else it is left out, as it
    names none of them.  attributes: that phrases say; each thing has a phrase for each list: of [colour, shape] "a red square",
    of [colour] "a red thing"; None = all four.  names: of the classes that a detector is measured by on these pictures, see
    `vlp.datasets.scenes.Scenes`; boxes belong to phrases alone.  The others: see SceneGenome.
    """

    def __init__(
        self,
        *,
        several: bool = False,
        attributes: Sequence[Sequence[str]] | None = None,
        names: str = "words",
        **settings: Any,
    ) -> None:
        super().__init__(content="regions", boxes=True, **settings)
        if names not in NAMES:
            raise UserError(f"data.names={names!r}: choose {', '.join(NAMES)}")
        self.several, self.names = several, names
        self.attributes = (NAMING_ATTRIBUTES,) if attributes is None else _check_attributes(attributes)

    def prepare_data(self) -> None:
        draw_scenes(self.root, **self.drawn, additions=["pairs"] if self.names == "pairs" else [])

    def samples(self, split: str) -> list[Sample]:
        part = next(part for part in PARTS[split] if self.drawn["images"].get(part))
        read = read_scene_instances(self.root, [part], names=self.names, masks=False, faults=self.faults)
        self.class_names, self.category_ids = read.names or None, read.ids or None
        return super().samples(split)

    def ground_truth(self, split: str) -> Path:
        """All things of the split's pictures."""
        (part,) = PARTS[split][:1]
        return require_path(
            self.root / NAMES[self.names] / f"instances_{part}.json", description=f"the instances of {self.name}"
        )

    def region_samples(
        self, photo: Any, records: list[dict[str, Any]], *arguments: Any, **keywords: Any
    ) -> Iterable[Sample]:
        of_things = [
            record | {"phrase": phrase}
            for record in records
            if not any(f" {relation} " in str(record.get("phrase")) for relation in PREDICATES.values())
            for phrase in self._phrases(str(record.get("phrase")))
        ]
        count = Counter(record["phrase"] for record in of_things)
        of_things = [record for record in of_things if self.several or count[record["phrase"]] == 1]
        samples = super().region_samples(photo, of_things, *arguments, **keywords) if of_things else []
        return [_with_all_boxes(sample, of_things) for sample in samples] if self.several else samples

    def _phrases(self, full: str) -> Iterable[str]:
        """full: such as "a large plain red square"."""
        if self.attributes == (NAMING_ATTRIBUTES,):
            return (full,)
        said = full.split()[1:]
        if len(said) != len(NAMING_ATTRIBUTES):
            raise DataError("unexpected phrase", f"{full!r} does not say {', '.join(NAMING_ATTRIBUTES)} of a thing")
        of_thing = dict(zip(NAMING_ATTRIBUTES, said, strict=True))
        words = [{name: of_thing[name] for name in names} for names in self.attributes]
        return [str(Mention(number=1, attributes=each, words={"shape": "thing"} | each)) for each in words]


def _check_attributes(lists: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Each in the order of words in a phrase.  Raises UserError."""
    if not lists or any(not names or set(names) - set(NAMING_ATTRIBUTES) for names in lists):
        raise UserError(
            f"data.attributes={list(lists)}: give lists of {', '.join(NAMING_ATTRIBUTES)}, such as "
            "[[colour, shape], [colour]]"
        )
    return tuple(dict.fromkeys(tuple(name for name in NAMING_ATTRIBUTES if name in names) for names in lists))


def _with_all_boxes(sample: Sample, records: list[dict[str, Any]]) -> Sample:
    """With the box of each thing that a phrase fits. A detector learns that all other places show none of the batch's phrases."""
    position = {caption: index for index, caption in enumerate(sample.captions)}
    named: list[tuple[int, Corners]] = []
    for record in records:
        left, top, width, height = (float(record[key]) for key in ("x", "y", "width", "height"))
        named.append((position[str(record["phrase"])], (left, top, left + width, top + height)))
    return replace(sample, boxes=tuple(box for _, box in named), box_captions=tuple(index for index, _ in named))
