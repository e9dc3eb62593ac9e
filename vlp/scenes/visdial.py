"""Dialogues about generated scenes in VisDial v1.0's files, with one round of each dialogue in those of relevances.

    visdial/visdial_1.0_{split}.json     visdial/visdial_1.0_{split}_dense_annotations.json

Where VisDial's test has no answers, the generated one has them, as its truth is no secret.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from vlp.scenes.dialogue import ANSWERS, Dialogue, write_dialogue
from vlp.scenes.picture import Picture

VERSION = "1.0"


def dialogue_of(picture: Picture, *, seed: int) -> Dialogue:
    """seed: of the scenes; the dialogue depends on it and the picture's id alone."""
    return write_dialogue(random.Random(f"{seed}/{picture.id}/dialogue"), picture.scene)


def visdial_files(pictures: Sequence[Picture], split: str, *, seed: int) -> dict[str, Any]:
    """The content of both files of a split by name."""
    questions: dict[str, int] = {}  # each different one with its position
    answers = {text: position for position, text in enumerate(ANSWERS)}
    dialogues, relevances = [], []
    for picture in pictures:
        dialogue = dialogue_of(picture, seed=seed)
        rounds = [
            {
                "question": questions.setdefault(asked.question, len(questions)), "answer": answers[asked.answer],
                "answer_options": [answers[option] for option in asked.options], "gt_index": asked.correct,
            }
            for asked in dialogue.rounds
        ]  # fmt: skip
        dialogues.append({"image_id": picture.id, "caption": dialogue.caption, "dialog": rounds})
        chosen = random.Random(f"{seed}/{picture.id}/relevance").randrange(len(rounds))
        relevances.append(
            {
                "image_id": picture.id,
                "round_id": chosen + 1,
                "gt_relevance": list(dialogue.rounds[chosen].relevance),
            }
        )
    data = {"questions": list(questions), "answers": list(answers), "dialogs": dialogues}
    return {
        f"visdial/visdial_{VERSION}_{split}.json": {"split": split, "version": VERSION, "data": data},
        f"visdial/visdial_{VERSION}_{split}_dense_annotations.json": relevances,
    }
