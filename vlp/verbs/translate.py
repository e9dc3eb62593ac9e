"""`Predictor.translate`: sentences in another language, with the pictures that they describe or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlp.data.inputs import require_list
from vlp.system.errors import UserError
from vlp.tasks.translation import Translation
from vlp.verbs.pictures import Picture


def translate(predictor: Any, texts: Sequence[str], images: Sequence[Picture | None] | None = None) -> list[str]:
    """See `Predictor.translate`."""
    require_list(texts, "texts")
    if images is not None and len(images) != len(texts):
        raise UserError(
            f"{len(texts)} texts and {len(images)} images: give one for each text, or None where it has none"
        )
    model, tokenizer = predictor.model, predictor.require_tokenizer()
    task: Any = predictor.objectives["translation"] if "translation" in predictor.objectives else Translation().eval()
    for part in task.needs:
        model.part(part)  # an error that names it where there is none
    given: list[Picture | None] = [None] * len(texts) if images is None else list(images)
    results: list[str] = []
    for start in range(0, len(texts), predictor.batch_size):
        rows = slice(start, start + predictor.batch_size)
        text = tokenizer(list(texts[rows]), kind="question").to(predictor.device)
        pictures = [picture for picture in given[rows] if picture is not None]
        pictured = torch.tensor([picture is not None for picture in given[rows]], device=predictor.device)
        memory = model.project_memory(model.encode_image(predictor.load_pixels(pictures))) if pictures else None
        results += task.translate(model, tokenizer, text, memory, pictured)
    return results
