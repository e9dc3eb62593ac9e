"""One question of generated VCR with its picture: the row of the official jsonl, the metadata beside the photo, and the pixels.

Where the official files have "person" the objects are "thing" here, all of one class, so that their names say nothing; the
metadata say in `things` what each is. `question_type` names the template.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlp.scenes.draw import bounding_box, draw_scene
from vlp.scenes.vcr.layout import choose_things, place_things, polygon
from vlp.scenes.vcr.templates import TEMPLATES, Draft, Spec, Tokens, relabel, state

OBJECT = "thing"
PROPERTIES = (("colour",), ("shape",), ("size",), ("cell",))


@dataclass(frozen=True, kw_only=True)
class Row:
    """official: of the jsonl.  mixed: the same question with rationales of several kinds, of which words alone can exclude some."""

    official: dict[str, Any]
    mixed: dict[str, Any]
    metadata: dict[str, Any]
    pixels: np.ndarray  # uint8 [size, size, 3]


def write_row(*, seed: int, split: str, index: int, size: int) -> Row:
    """Question number `index` of a split: it depends on nothing but these."""
    rng = random.Random(f"vcr/{seed}/{split}/{index}")
    draft = TEMPLATES[rng.choice(list(TEMPLATES))](rng)
    specs = choose_things(rng, draft)
    positions = list(range(len(specs)))  # of each thing of the draft, in the lists of the files
    rng.shuffle(positions)
    listed = [specs[positions.index(place)] for place in range(len(specs))]
    scene = place_things(rng, listed)
    pixels, masks = draw_scene(scene, size)
    name = f"{split}/{index:07d}"
    official = {
        "movie": "scenes", "img_fn": f"{name}.png", "metadata_fn": f"{name}.json", "img_id": f"{split}-{index}",
        "annot_id": f"{split}-{index}", "question_number": 0, "match_fold": f"{split}-0", "match_index": index,
        "objects": [OBJECT] * len(specs), "question_type": draft.kind, "question": relabel(draft.question, positions),
        **_choose(rng, "answer", [relabel(tokens, positions) for tokens in draft.answers]),
    }  # fmt: skip
    rationales = [relabel(tokens, positions) for tokens in draft.rationales]
    kinds = [relabel(tokens, positions) for tokens in mixed_rationales(rng, draft, specs)]
    agreeing, mixed = (_choose(rng, "rationale", choices) for choices in (rationales, kinds))
    originals = {
        f"{kind}_orig": original_text(tokens)
        for kind, tokens in (
            ("question", official["question"]),
            ("answer", relabel(draft.answers[0], positions)),
            ("rationale", rationales[0]),
        )
    }
    metadata = {
        "boxes": [[*_corners(mask), 1.0] for mask in masks], "segms": [[polygon(thing, size)] for thing in scene.things],
        "names": [OBJECT] * len(specs), "width": size, "height": size, "things": [asdict(spec) for spec in listed],
    }  # fmt: skip
    return Row(
        official=official | agreeing | originals, mixed=official | mixed | originals, metadata=metadata, pixels=pixels
    )


def _choose(rng: random.Random, kind: str, choices: list[Tokens]) -> dict[str, Any]:
    """Both keys of the choices in any order; the right one comes first."""
    order = list(range(4))
    rng.shuffle(order)
    return {f"{kind}_choices": [choices[number] for number in order], f"{kind}_label": order.index(0)}


def mixed_rationales(rng: random.Random, draft: Draft, specs: Sequence[Spec]) -> list[Tokens]:
    """The true one; what is true of two other things; what is false of the right ones; and what is true of the right ones and no
    reason."""
    first, second = draft.about
    others = rng.sample([thing for thing in range(len(specs)) if thing not in draft.about], 2)
    unasked = rng.choice([names for names in PROPERTIES if not set(names) & set(draft.properties)])
    return [
        draft.rationales[0],
        state(draft.properties, (others[0], specs[others[0]]), (others[1], specs[others[1]])),
        rng.choice(draft.rationales[1:]),
        state(unasked, (first, specs[first]), (second, specs[second])),
    ]


def original_text(tokens: Tokens) -> str:
    """As it was typed, with tags from 1 on."""
    words = [token if isinstance(token, str) else " and ".join(str(tag + 1) for tag in token) for token in tokens]
    return " ".join(words).replace(" ,", ",").replace(" .", ".").replace(" ?", "?")


def _corners(mask: np.ndarray) -> list[int]:
    left, top, width, height = bounding_box(mask)
    return [left, top, left + width, top + height]
