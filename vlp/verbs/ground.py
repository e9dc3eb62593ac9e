"""`Predictor.ground`: the box of what a phrase names, in pixels of the photo as it was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, Text, Tokens, require, require_finite
from vlp.system.errors import UserError
from vlp.tasks.grounding import Grounding
from vlp.verbs.pictures import Picture, show_photos


def ground(
    predictor: Any, images: Sequence[Picture], phrases: Sequence[str], *, heat: bool = False
) -> list[dict[str, Any]]:
    """See `Predictor.ground`."""
    model, task = predictor.model, grounding_task(predictor.objectives)
    for part in task.needs:
        model.part(part)  # an error that names it where there is none
    results = []
    for pictures, words in predictor.pair_batches(images, phrases, "phrases"):
        batch = _build_batch(predictor, pictures, words)
        tokens = model.encode_image(require(batch.image), levels=task.levels)
        memory = model.project_memory(tokens) if task.mode == "box" else None
        found = task.ground(model, batch, Features(image=tokens, memory=memory))
        scores = _match(predictor.objectives, model, tokens, require(batch.caption))
        for row, grounded in enumerate(found):
            score = grounded.scores if task.mode == "detector" else None if scores is None else scores[row : row + 1]
            result = {"box": grounded.boxes[0].tolist(), "score": None if score is None else float(score[0])}
            results.append(result | ({"heat": grounded.heat} if heat else {}))
    return results


def grounding_task(objectives: nn.ModuleDict) -> Grounding:
    """The checkpoint's own, or else by the heat of matching.  Raises UserError where it has neither."""
    if "grounding" in objectives:
        task: Any = objectives["grounding"]
    elif "itm" in objectives:
        task = Grounding(mode="map", score="itm").eval()
    else:
        has = ", ".join(objectives) or "none"
        raise UserError(f"to ground phrases a checkpoint needs the head of grounding or of itm; its heads are: {has}")
    for head in task.predict_heads:
        if head not in objectives:
            raise UserError(f"grounding by mode={task.mode} needs the head of {head}, which this checkpoint lacks")
        task.linked[head] = objectives[head]
    return task


def _build_batch(predictor: Any, pictures: Sequence[Picture], words: Sequence[str]) -> Batch:
    shown = show_photos(predictor, pictures, "boxes")
    numbers = torch.arange(len(pictures))
    text = predictor.require_tokenizer()(list(words))
    batch = Batch(id=numbers, sample=numbers, seed=numbers, image=shown.image, caption=text, frame=shown.frame)
    return batch.to(predictor.device)


def _match(objectives: nn.ModuleDict, model: VisionLanguageModel, image: Tokens, text: Text) -> Tensor | None:
    """The probability that phrase i belongs to image i, by the head of image-text matching, where there is one."""
    if "itm" not in objectives:
        return None
    itm: Any = objectives["itm"]
    logits = itm.logits(model, model.encode_text(text), model.project_memory(image))
    return require_finite(logits, "logits of a match").softmax(1)[:, 1]
