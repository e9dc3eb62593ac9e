"""Which generated scenes, and which of their texts, are used where pairs of a colour and a shape are kept out of training.

train       without the pictures that show such a pair, whatever is said of them; and without questions that name one
            ("Is there a red star?" is also asked where there is none)
val, test   pairs=all: everything.  Pictures with captions, or boxes by class: pairs=unseen: those that show such a pair,
            pairs=seen: those that show none.  Phrases and questions: pairs=unseen: those that name such a pair,
            pairs=seen: those that name a colour and a shape together, and none of these
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import read_json
from vlp.data.issues import DataError
from vlp.scenes.pairs import Pair, named_pairs, parse_pairs
from vlp.structures import Sample
from vlp.system.errors import UserError

CHOICES = ("all", "seen", "unseen")


@dataclass(frozen=True)
class PairChoice:
    """held_out: kept out of train.  pairs: of CHOICES, for val and test."""

    held_out: frozenset[Pair]
    pairs: str

    @classmethod
    def parse(cls, held_out: Sequence[str] | None, pairs: str) -> PairChoice:
        """The settings data.held_out_pairs and data.pairs.  Raises UserError."""
        if pairs not in CHOICES:
            raise UserError(f"data.pairs={pairs!r}: choose {', '.join(CHOICES)}")
        if pairs != "all" and not held_out:
            raise UserError(
                f"data.pairs={pairs} divides by pairs that training lacks: list some in data.held_out_pairs"
            )
        return cls(parse_pairs(held_out or ()), pairs)

    def choose_pictures(self, samples: list[Sample], split: str, root: Path) -> list[Sample]:
        """The samples of captions or boxes that are used."""
        unseen = self._wants_unseen(split)
        if unseen is None:
            return samples
        shown = read_shown_pairs(root)
        return [sample for sample in samples if bool(_of(sample, shown) & self.held_out) == unseen]

    def choose_texts(self, samples: list[Sample], split: str, root: Path) -> list[Sample]:
        """The samples of phrases, each with its box, or of questions that are used, with those of their texts that are."""
        if split == "train":
            kept = self.choose_pictures(samples, split, root)
            return [sample for sample in kept if not named_pairs(sample.question or "") & self.held_out]
        if self._wants_unseen(split) is None:
            return samples
        chosen = []
        for sample in samples:
            if sample.question is not None:
                chosen += [sample] if self._is_chosen(sample.question) else []
            elif positions := [i for i, text in enumerate(sample.captions) if self._is_chosen(text)]:
                chosen.append(_with_captions(sample, positions))
        return chosen

    def _wants_unseen(self, split: str) -> bool | None:
        """Whether a picture must show, or a text name, such a pair; None = it does not matter."""
        if not self.held_out or (split != "train" and self.pairs == "all"):
            return None
        return split != "train" and self.pairs == "unseen"

    def _is_chosen(self, text: str) -> bool:
        named = named_pairs(text)
        return bool(named) and bool(named & self.held_out) == (self.pairs == "unseen")


def _with_captions(sample: Sample, positions: list[int]) -> Sample:
    """With some of its captions alone, and with their boxes, unless boxes belong to classes."""
    captions = tuple(sample.captions[position] for position in positions)
    if sample.boxes is None or sample.box_labels:
        return replace(sample, captions=captions)
    new = {position: index for index, position in enumerate(positions)}
    of_caption = sample.box_captions or range(len(sample.boxes))
    kept = [index for index, caption in enumerate(of_caption) if caption in new]

    def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(values[index] for index in kept) if values else values

    box_captions = tuple(new[caption] for caption in sample.box_captions if caption in new)
    return replace(
        sample, captions=captions, boxes=pick(sample.boxes), box_captions=box_captions, box_masks=pick(sample.box_masks),
        box_crowds=pick(sample.box_crowds),
    )  # fmt: skip


def _of(sample: Sample, shown: dict[int, frozenset[Pair]]) -> frozenset[Pair]:
    number = image_number(str(sample.image))
    if number not in shown:
        raise DataError("missing key", f"{sample.image}: the files of scenes do not say what it shows")
    return shown[number]


def image_number(path: str) -> int:
    """Of …/COCO_val_000020000001.png."""
    return int(Path(path).stem.rpartition("_")[2])


def read_shown_pairs(root: Path) -> dict[int, frozenset[Pair]]:
    """The pairs that each picture of a folder of scenes shows, by its number. Crowded scenes have things/*.json, others
    Visual Genome's attributes."""
    shown: dict[int, frozenset[Pair]] = {}
    if files := sorted((root / "things").glob("*.json")):
        for file in files:
            for name, things in read_json(file, description="what scenes show").items():
                shown[image_number(name)] = frozenset((thing["colour"], thing["shape"]) for thing in things)
        return shown
    path = root / "visual_genome" / "attributes.json"
    for entry in read_json(path, description="what scenes show"):
        pairs = ((thing["attributes"][0], thing["names"][0]) for thing in entry["attributes"])
        shown[entry["image_id"]] = frozenset(pairs)
    return shown
